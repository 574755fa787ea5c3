#!/usr/bin/env bash
# A sweep on one dump: for every seed a baseline, and a student for every alpha and temperature; one run after another.
#
#   DATA=dataset DUMP=dump OUT=runs/sweep examples/sweep.sh --embed-dim 192 --num-blocks 4 --num-epochs 6
#
# What follows the name goes to every train-student. Interrupted, the same command goes on: finished runs end at once, the
# one that was stopped continues from its checkpoint. A run that fails ends the sweep with its message and status.
# Ctrl-C stops the run under way; SIGTERM to this script alone ends the sweep after it.
#
#   ALPHAS TEMPERATURES SEEDS   values, separated by spaces; the dump must declare the temperatures
#   PYTHON                      the interpreter [python]
#   LIST=1                      train nothing: print the runs, one a line, counted from 0
#   ONLY=3                      of these, train run 3 alone, without a report
set -euo pipefail

: "${DATA:?is not set: name the dataset, DATA=dataset}"
: "${DUMP:?is not set: name the dump, DUMP=dump}"
: "${OUT:?is not set: name a folder for the runs, OUT=runs/sweep}"
read -ra alphas <<<"${ALPHAS:-0.3 0.5 0.7}"
read -ra temperatures <<<"${TEMPERATURES:-1 2}"
read -ra seeds <<<"${SEEDS:-1 2 3}"
python=${PYTHON:-python}
cli=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/cli.py

# Seeds outermost, so that a sweep that was cut short has whole comparisons.
names=()
options=()
for seed in "${seeds[@]}"; do
  names+=("baseline-seed$seed")
  options+=("--seed $seed")
  for alpha in "${alphas[@]}"; do
    for temperature in "${temperatures[@]}"; do
      names+=("alpha$alpha-temperature$temperature-seed$seed")
      options+=("--seed $seed --alpha $alpha --temperature $temperature")
    done
  done
done

if [[ -n ${LIST:-} ]]; then
  printf '%s\n' "${names[@]}"
  exit
fi

# Sets `command` to what trains run $1; the other arguments go to train-student.
describe() {
  local index=$1
  shift
  local of_run
  read -ra of_run <<<"${options[index]}"
  command=("$python" "$cli" train-student --data "$DATA" --out "$OUT/${names[index]}" "${of_run[@]}" "$@")
  [[ ${names[index]} == baseline-* ]] || command+=(--dump "$DUMP")
  echo "sweep: run $index of 0 to $((${#names[@]} - 1)), ${names[index]}" >&2
}

if [[ -n ${ONLY:-} ]]; then
  if ! [[ $ONLY =~ ^[0-9]+$ ]] || ((10#$ONLY >= ${#names[@]})); then
    echo "sweep: ONLY is $ONLY, expected 0 to $((${#names[@]} - 1)); LIST=1 prints the runs" >&2
    exit 1
  fi
  describe "$((10#$ONLY))" "$@"
  exec "${command[@]}" # signals reach the training itself
fi

trap 'exit 143' TERM # taken when the run under way has ended
for index in "${!names[@]}"; do
  describe "$index" "$@"
  "${command[@]}"
done
"$python" "$cli" report "${names[@]/#/$OUT/}" --out "$OUT/report.html"
