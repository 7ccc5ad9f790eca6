# Sourced by scripts/demo and scripts/test: makes .venv, or brings it up to date.
# Everything is pinned in constraints.txt; a stamp says what an environment was made from, and
# is written last, so a half-made one is completed.

python=$(command -v python3.11 || command -v python3) || {
  echo "error: no python3 found: install Python 3.11." >&2
  exit 2
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: $python is older than Python 3.11: install Python 3.11." >&2
  exit 2
}

stamp=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
  echo "making the environment in .venv" >&2
  [ -x .venv/bin/python ] || "$python" -m venv --clear .venv
  rm -f .venv/stamp
  # torch first and by itself: asked for together with the rest, a resolver may choose
  # another build of it.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
    --editable '.[export-cpu,test]'
  echo "$stamp" > .venv/stamp
fi
