#!/usr/bin/env bash
# Checks a bare CUDA machine, and measures it:
#
#   scripts/gpu_check.sh OUT.json
#
# Makes an environment for CUDA in .venv-gpu, builds the embedded default model, exports it for CPU
# and CUDA, lets both answer the questions about the bundled recording, profiles CUDA, and writes
# all of it as one JSON. Exit code 1: CUDA does not answer as the CPU does; 2: it cannot be used.
set -euo pipefail
out=$(realpath -m "${1:?give the JSON file to write}")
cd "$(dirname "$0")/.."
. scripts/environment.sh

# The CPU's wheel of ONNX Runtime writes the same folder as CUDA's: it must not come in.
install_gpu() {
  "$1" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
  "$1" -m pip install --quiet --disable-pip-version-check -c constraints.txt \
    --editable '.[export-gpu,profile]' gguf
}
make_environment .venv-gpu "$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)" \
  install_gpu
bin=.venv-gpu/bin

"$bin/speechprune-ort" doctor
"$bin/python" -c 'from speechprune_ort.runtime.device import cuda_problem as p
problem = p()
raise SystemExit(f"error: CUDA cannot be used here: {problem}." if problem else 0)' || exit 2

work=.gpu_check
checkpoint=$work/checkpoint
[ -f "$checkpoint/config.json" ] || "$bin/python" scripts/build_small_model.py "$checkpoint"
for bundle in cpu-fp32 cuda-fp16 cuda-int4; do
  [ -f "$work/$bundle/manifest.json" ] ||
    "$bin/speechprune-ort" export "$checkpoint" "$work/$bundle" \
      --target "${bundle%-*}" --precision "${bundle#*-}"
done
for precision in fp16 int4; do
  "$bin/speechprune-ort" profile "$work/cuda-$precision" --device cuda \
    --durations 30,90,600 --repeats 7 --format json > "$work/profile-$precision.json"
done
exec "$bin/python" scripts/gpu_check.py "$work" "$out"
