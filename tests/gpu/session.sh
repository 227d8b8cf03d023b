#!/usr/bin/env bash
# All checks that need a GPU, in one call:
#
#   bash tests/gpu/session.sh OUT
#
# Parity with the CPU, training throughput, attack speed and memory, synthfaces-64 cells, and what
# celeba-64 would cost. Writes figures and records to the folder OUT. Run it from the repository's
# root with mibench's dependencies importable (an installed mibench is not needed).
set -uo pipefail
out=${1:?usage: session.sh OUT}
mkdir -p "$out"
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD" MIBENCH_STORE="${MIBENCH_STORE:-/tmp/mibench-store}"
failed=0
step() {
  local name=$1
  shift
  echo "== $name"
  if "$@" >"$out/$name.txt" 2>&1; then tail -n 5 "$out/$name.txt"; else
    failed=1
    echo "FAILED:"
    tail -n 20 "$out/$name.txt"
  fi
}
step doctor python3 -m mibench doctor
step parity python3 -m pytest -q tests/gpu/test_parity.py
step throughput python3 -m tests.benchmarks.throughput --target vgg16_bn --images 6400 --device cuda
step cell-32 python3 -m mibench run --device cuda --attack improved-kedmi --out "$out/cell-32" --json
for attack in gmi improved-gmi kedmi improved-kedmi; do
  step "cell-64-$attack" timeout "${CELL_SECONDS:-420}" python3 -m mibench run --device cuda \
    --protocol synthfaces-64 --attack "$attack" --json \
    --set prior.gan.steps="${PRIOR_STEPS:-20000}" \
    --out "/tmp/cell-64-$attack"
  cp "/tmp/cell-64-$attack/record.json" "$out/record-64-$attack.json" 2>/dev/null
done
for share in 0.002 0.01; do
  step "celeba-$share" python3 -m tests.benchmarks.celeba --device cuda --budget "$share" \
    --keep /tmp/celeba
done
step projection python3 -m tests.benchmarks.projection /tmp/celeba/out-0.002/record.json \
  /tmp/celeba/out-0.01/record.json --data /tmp/celeba/data
exit "$failed"
