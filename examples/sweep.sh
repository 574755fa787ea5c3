#!/usr/bin/env bash
# Train many students on one dump: for every seed a baseline, and a student for every alpha and temperature, one run after
# another. Then write a report.
#
#   DATA=dataset DUMP=dump OUT=runs/sweep examples/sweep.sh --embed-dim 192 --num-blocks 4 --num-epochs 6
#
# The arguments go to every train-student. If the sweep is interrupted, run the same command again. Finished runs end at
# once, and the run that was stopped continues from its checkpoint. If a run fails, the sweep ends with the run's message
# and exit status. Ctrl-C stops the run and the sweep. SIGTERM to this script alone ends the sweep after the current run.
#
#   ALPHAS TEMPERATURES SEEDS   values, separated by spaces; the dump must have been made for all of the temperatures
#   PYTHON                      the interpreter [python]
#   LIST=1                      train nothing; print the names of the runs, one per line; the first is run 0
#   ONLY=3                      train only run 3, without a report
set -euo pipefail

: "${DATA:?is not set: name the dataset, DATA=dataset}"
: "${DUMP:?is not set: name the dump, DUMP=dump}"
: "${OUT:?is not set: name a folder for the runs, OUT=runs/sweep}"
read -ra alphas <<<"${ALPHAS:-0.3 0.5 0.7}"
read -ra temperatures <<<"${TEMPERATURES:-1 2}"
read -ra seeds <<<"${SEEDS:-1 2 3}"
python=${PYTHON:-python}
cli=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/cli.py

# Seeds are the outer loop, so that an interrupted sweep has all runs of its first seeds.
names=()
options=()
for seed in "${seeds[@]}"; do
  names+=("baseline-seed$seed")
  options+=("--seed $seed")
  for alpha in "${alphas[@]}"; do
    for temperature in "${temperatures[@]}"; do
      # Without dots, because BabyLM's pipeline cuts a name at its last dot: alpha 0.5 is alpha0p5.
      names+=("alpha${alpha//./p}-temperature${temperature//./p}-seed$seed")
      options+=("--seed $seed --alpha $alpha --temperature $temperature")
    done
  done
done

if [[ -n ${LIST:-} ]]; then
  printf '%s\n' "${names[@]}"
  exit
fi

# Set `command` to the command that trains run $1. The other arguments go to train-student.
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
  exec "${command[@]}" # so that signals reach the training itself
fi

trap 'exit 143' TERM # takes effect when the current run has ended
for index in "${!names[@]}"; do
  describe "$index" "$@"
  "${command[@]}"
done
"$python" "$cli" report "${names[@]/#/$OUT/}" --out "$OUT/report.html"
