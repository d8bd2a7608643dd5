#!/usr/bin/env bash
# The tests of the mechanisms with other versions, in a fresh environment:
#
#   tests/versions/run.sh TORCH [DIFFUSERS] [more for pip ...]
#   tests/versions/run.sh 2.15 0.40 'transformers<5'
#   PYTHON=python3.13 tests/versions/run.sh 2.13.0
#
# `newest` takes what pip offers, and FEW=1 a few tests of each kind, as the gate does; GPU_CODEGEN=1 runs the
# tests of the code that is generated for GPUs (tests/gpu_codegen), too.
# Where torch is a CUDA build, the environment takes 6 GB. Prints one line of result; fails where a test does.
set -euo pipefail
cd "$(dirname "$0")/../.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# shellcheck source=tests/versions/environment.sh
. tests/versions/environment.sh
environment "${1:?which torch}" "${2:-0.42}" "${@:3}"

tiers=(
  tests/test_torch_private.py tests/test_layers.py                                               # names
  tests/{capture,environment,ir,ops,passes,forecasters} tests/policies/test_decisions.py         # parts
  tests/behaviour/test_{semantics,trajectories,contexts,plans,configure}.py                      # eager
  tests/backends/test_compile.py                                                                 # compile
  tests/package                                                                                  # export
  tests/behaviour/zoo/test_uncached.py tests/behaviour/zoo/test_hits.py                          # structures
  tests/bench/test_gpu.py                                                                        # bench.gpu
)
if [[ ${FEW:-} ]]; then
  tiers=(
    tests/test_torch_private.py tests/ops tests/passes/test_passes.py tests/behaviour/test_semantics.py
    tests/backends/test_compile.py::test_graphs_breaks_and_recompilations tests/package/test_package.py
  )
fi
status=0
pytest -p no:cacheprovider --color=no "${tiers[@]}" | tee "$folder/report" || status=$?
versions=$(python -c 'import platform, diffusers, torch, transformers as t
print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {t.__version__}, "
      f"Python {platform.python_version()}")' 2>/dev/null)
echo "$versions: $(grep -E '^[0-9]+ (passed|failed)|(passed|failed|error).* in ' "$folder/report" | tail -1)"
if [[ ${GPU_CODEGEN:-} ]]; then tests/gpu_codegen/suite.sh || status=$?; fi
exit "$status"
