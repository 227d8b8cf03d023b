#!/usr/bin/env bash
# All checks that need a GPU, in one call:
#
#   bash tests/gpu/session.sh OUT [GRID.toml [SECONDS]]
#
# Parity with the CPU, a whole cell, every attack and every defense at a share of the budget,
# training throughput, and what celeba-64 would cost. With a GRID.toml, and if all before it held,
# its cells are run, WORKERS at a time, until SECONDS after the start; the records of those that
# ended are filed, in OUT/boards.tar.xz.* (cat them together). SKIP names steps to leave out, as SKIP="celeba throughput".
# Figures are written to the folder OUT. Run it from the repository's root with mibench's
# dependencies importable (an installed mibench is not needed).
set -uo pipefail
out=${1:?usage: session.sh OUT [GRID.toml [SECONDS]]}
grid=${2:-} until=${3:-3600} workers=${WORKERS:-$(nproc)} device=${DEVICE:-cuda}
place=$(mktemp -d) failed=0
mkdir -p "$out"
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD" MIBENCH_STORE="${MIBENCH_STORE:-$place/store}"
# Packages that came without compiled files, into a folder that is not written to, are compiled once.
export PYTHONPYCACHEPREFIX="$place/compiled"
unset PYTHONDONTWRITEBYTECODE
mibench() { python3 -m mibench "$@"; }
export -f mibench

step() { # NAME COMMAND…
  local name=$1 start=$SECONDS
  shift
  [[ " ${SKIP:-} " == *" $name "* ]] && return
  if "$@" >"$out/$name.txt" 2>&1; then
    echo "== $name: $((SECONDS - start)) s"
    tail -n 5 "$out/$name.txt"
  else
    failed=1
    echo "== $name: FAILED after $((SECONDS - start)) s"
    tail -n 30 "$out/$name.txt"
  fi
}

cell() { # ATTACK: on synthfaces-32
  mibench run --device "$device" --attack "$1" --out "$place/cell-$1" --quiet
}

everything() {
  local attacks defenses
  attacks=$(python3 -c 'from mibench.inversion.attack import ATTACKS; print(*ATTACKS.names(), sep=",")')
  defenses=$(python3 -c 'from mibench.training.defense import DEFENSES; print(*DEFENSES.names(), sep=",")')
  local share=(--budget 0.02 --device "$device" --workers "$workers" --out "$place/share")
  mibench grid --attacks "$attacks,improved-gmi+taa,improved-kedmi" "${share[@]}" &&
    mibench grid --defenses "$defenses" --attacks improved-gmi,lookup-label-only "${share[@]}"
}

celeba() {
  local share
  for share in 0.002 0.01; do
    python3 -m tests.benchmarks.celeba --device "$device" --budget "$share" --keep "$place/celeba" ||
      return
  done
  python3 -m tests.benchmarks.projection "$place"/celeba/out-{0.002,0.01}/record.json \
    --data "$place/celeba/data"
}

step doctor mibench doctor
step parity python3 -m pytest -q -p no:cacheprovider tests/gpu/test_parity.py
step cell-32 cell improved-kedmi
step cell-32-taa cell improved-gmi+taa
step everything everything
step throughput python3 -m tests.benchmarks.throughput --target vgg16_bn --images 6400 --device "$device"
step celeba celeba
[[ -n $grid && $failed == 0 ]] || exit "$failed"

boards() {
  local left=$((until - SECONDS))
  timeout --kill-after=20 "$left" python3 -m mibench grid "$grid" --device "$device" \
    --workers "$workers" --out "$place/runs"
  echo "the grid ended with $? after $SECONDS s"
}

filed() { # what `leaderboard add` refuses is told and left out
  find "$place/runs" -name record.json -printf '%h\n' | sort >"$place/ended"
  split -n "l/$workers" "$place/ended" "$place/share-"
  for part in "$place"/share-*; do
    xargs -r -a "$part" python3 -m mibench leaderboard add --device "$device" --folder "$place/boards" &
  done
  wait
  tar -C "$place" -cf - boards | xz -T0 | split -b 14M -d - "$out/boards.tar.xz."
  ls -l "$out"/boards.tar.xz.*
}

export OMP_NUM_THREADS=1
step grid boards
step filed filed
grep -c "^filed" "$out/filed.txt"
grep -A1 "^refused" "$out/filed.txt" | head -n 20
exit "$failed"
