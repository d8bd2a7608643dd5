#!/usr/bin/env bash
# The code that is generated for GPUs, in a fresh environment of a CUDA build of torch; no GPU is needed:
#
#   tests/gpu_codegen/run.sh            the newest torch that pip offers, and a representative of each kind
#   tests/gpu_codegen/run.sh 2.14.1     that torch
#   FULL=1 tests/gpu_codegen/run.sh     every model, dtype and mode: hours
#
# The environment takes 6 GB.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# shellcheck source=tests/versions/environment.sh
. tests/versions/environment.sh
environment "${1:-newest}" 0.42
tests/gpu_codegen/suite.sh
