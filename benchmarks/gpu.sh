#!/usr/bin/env bash
# Tests, parity, speed and memory on a CUDA device, in at most 8 minutes and without a network.
#
#   bash benchmarks/gpu.sh [--wheels DIR] [--out DIR] [--device cuda:0] [--minutes 8]
#
# $PYTHON (python3 by default) needs torch 2.11 or newer with CUDA, torchvision and pip. --wheels names a folder of wheels of
# everything else that it lacks; they are installed into a temporary folder. To make it, in a clone on a machine with a
# network and the same Python version:
#
#   there="torch torchvision bentoml openvino mypy import-linter pre-commit ruff"  # what the steps find there, or do not need
#   uv export -q --no-hashes --no-emit-project $(printf -- '--prune %s ' $there) -o needed.txt
#   python -m pip wheel --no-deps --wheel-dir wheels -r needed.txt
#
# Wheels of packages that are there already in a version that pyproject.toml allows may be deleted. The report is in DIR
# (gpu-report by default): gpu.txt, gpu.json, and the log of each step. Exit status 1 if a step failed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3} wheels= minutes=8 arguments=()
while (($#)); do
  case $1 in
    --wheels) wheels=$2; shift 2 ;;
    --minutes) minutes=$2; shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ -n "$wheels" ]; then
  timeout 120 "$python" -m pip install --quiet --no-index --no-deps --target "$scratch" "$wheels"/*.whl
  export PYTHONPATH=$scratch${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONDONTWRITEBYTECODE=1 D2RUN_HOME=$scratch/home
"$python" "$here/gpu.py" --seconds $((60 * minutes - SECONDS)) "${arguments[@]}"
