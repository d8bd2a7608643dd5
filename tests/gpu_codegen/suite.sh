#!/usr/bin/env bash
# The tests of this folder in the environment that is active. FULL=1: all of them.
set -euo pipefail
cd "$(dirname "$0")/../.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
if ! python -c 'from fxcache.torch_private import builds_for_cuda as b; raise SystemExit(not b())'; then
  echo "GPU code: left out, this torch is not a CUDA build with Triton"
  exit 0
fi
# Packages are linked with a toolkit's headers; another `nvcc` in the path would lead the compiler astray.
[[ -d /usr/local/cuda ]] && export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
which="gpu_codegen and not full"
[[ ${FULL:-} ]] && which=gpu_codegen

# Two processes of about equal length: Triton compiles, or it interprets.
run() {
  pytest -o addopts='-q --strict-markers' -p no:cacheprovider --color=no --show-capture=no -m "$which" "$@"
}
run tests/gpu_codegen --ignore tests/gpu_codegen/test_numbers.py &
first=$!
TRITON_INTERPRET=1 run tests/gpu_codegen/test_numbers.py
wait "$first"
