# Sourced by the scripts that need an environment: makes it, or brings it up to date.

# As speechprune_ort does; some scripts import onnxruntime before it.
export ORT_DISABLE_TELEMETRY="${ORT_DISABLE_TELEMETRY-1}"

# What pip leaves uncompiled is compiled once, as it is imported.
unset PYTHONDONTWRITEBYTECODE

# make_environment FOLDER STAMP INSTALL: a virtual environment in FOLDER, filled by the function
# INSTALL, which is given its python. STAMP says what it is made from and is written last, so a
# half-made environment is completed and an outdated one brought up to date. PYTHON names another
# Python than python3.11 to make it with.
make_environment() {
  local folder=$1 stamp=$2 install=$3 python
  [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ] || return 0
  python=$(command -v "${PYTHON:-python3.11}" || command -v python3) || {
    echo "error: no python3 found: install Python 3.11." >&2
    exit 2
  }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $python is older than Python 3.11: install Python 3.11." >&2
    exit 2
  }
  echo "making the environment in $folder" >&2
  [ -x "$folder/bin/python" ] || "$python" -m venv --clear "$folder"
  rm -f "$folder/stamp"
  "$install" "$folder/bin/python"
  echo "$stamp" > "$folder/stamp"
}

# pip_install PYTHON ARGUMENT...: compiling all that is installed takes longer than installing it, and
# most of it is never imported.
pip_install() {
  "$1" -m pip install --quiet --disable-pip-version-check --no-compile "${@:2}"
}

# What has a hash, all that torch needs included, and side by side with it torch, which has none
# (scripts/lock) and comes by itself: asked for together with the rest, a resolver may choose another
# build of it. Then the project.
install_project() {
  pip_install "$1" --no-deps -c constraints.txt torch &
  pip_install "$1" --require-hashes --no-deps --requirement locked.txt
  wait $!
  pip_install "$1" --no-deps --no-build-isolation --editable .
  "$1" -m pip check > /dev/null
}

# The environment of scripts/demo and scripts/test, in .venv.
project_environment() {
  make_environment .venv "$(cat pyproject.toml constraints.txt locked.txt | sha256sum |
    cut -d' ' -f1)" install_project
}

# faster-whisper brings its own tokenizers, so it has an environment of its own.
install_faster_whisper() {
  pip_install "$1" -c constraints.txt faster-whisper safetensors soundfile
}
faster_whisper_environment() {
  make_environment .venv-faster-whisper "$(sha256sum < constraints.txt | cut -d' ' -f1)" \
    install_faster_whisper
}

# run_module ENVIRONMENT FOLDER MODULE ARGUMENT...: a Python module below scripts/, with FOLDER as
# the working folder. -P: what lies in that folder is not imported.
run_module() {
  local environment=$PWD/$1 folder=$2 module=$3
  export PYTHONPATH=$PWD/scripts
  shift 3
  cd "$folder"
  exec "$environment/bin/python" -P -m "$module" "$@"
}

# run_with_tests FILE ARGUMENT...: a program that makes the tests' tiny checkpoints.
run_with_tests() {
  PYTHONPATH="$PWD/scripts:$PWD/tests/helpers" exec .venv/bin/python "$@"
}
