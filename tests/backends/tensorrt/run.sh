#!/usr/bin/env bash
# The TensorRT suite in a fresh environment: torch-tensorrt-rtx beside torch (2.13.0, or the version that is
# given), no GPU needed.
set -euo pipefail
cd "$(dirname "$0")/../../.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

venv=$(mktemp -d)/venv
trap 'rm -rf "$(dirname "$venv")"' EXIT
python3 -m venv "$venv"
# shellcheck disable=SC1091
. "$venv/bin/activate"

# By its number: the CPU build, where one is offered, and the torch-tensorrt-rtx that fits.
pip install -q "torch==${1:-2.13.0}" -e '.[tensorrt-rtx]' 'pytest>=8' 'hypothesis>=6.100' 'diffusers==0.42.1'

# Two processes of about equal length, as the gate has two cores. Log capture is off: tracing logs a lot.
run() {
  pytest -o addopts='-q --strict-markers' -p no:logging -p no:cacheprovider --show-capture=no -m "tensorrt and not full" tests/backends/tensorrt -k "$1"
}
half="flux or package or report"
run "$half" &
first=$!
run "not ($half)"
wait "$first"
