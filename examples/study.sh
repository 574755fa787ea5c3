#!/usr/bin/env bash
# Run a whole study, from raw text and treebanks to a table: does a teacher that knows trees make a student better?
#
#   TEXTS=raw TREES=trees PAIRS=blimp SUITES=syntaxgym OUT=study SHARE=0.02 examples/study.sh
#
# The script first prepares the data and times each long step on a small sample. It prints a plan, the hours of each step,
# and then does the steps. If it is interrupted, run the same command again: finished steps are skipped, and the step that
# was stopped continues. The figures of each step go to OUT/logs, its progress, warnings and errors to the terminal.
# docs/study.md explains every step and what it prints.
#
# The variables, with defaults in brackets:
#
#   TEXTS    a folder of raw text, one file SOURCE.txt or SOURCE.txt.gz per source; one paragraph per line, a blank line
#            between documents
#   TREES    a folder of treebanks from import-trees: NAME-train.mrg, .txt, .docs and NAME-dev.mrg, .txt, .docs per treebank
#   PAIRS    a folder of minimal pairs in BLiMP's format
#   SUITES   a folder of SyntaxGym suites
#   OUT      the folder to write
#   SHARE    the share of the text and of the trees to use [1]. If it is at most 0.2, small models are trained
#   BEAM     beam and word beam of the dump for the distilled students [10,5]. Empty: a dump given the trees
#   PLAN=1   stop after printing the plan
#   JOBS     number of processes that run at a time [2]
#   PYTHON   the interpreter [python], with the packages that "make env" installs into .venv
#
# The script needs bash 4.4 or later. JOBS and PYTHON may change when the script is run again. To change anything else,
# give another OUT. The sizes of models and trainings are in the variables below. To change a size, set its variable.
set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "study: this is bash $BASH_VERSION, expected 4.4 or later; install a newer bash and start: bash examples/study.sh" >&2
  exit 1
fi
: "${TEXTS:?is not set: name the folder of raw text, TEXTS=raw}"
: "${TREES:?is not set: name the folder of treebanks, TREES=trees}"
: "${PAIRS:?is not set: name the folder of minimal pairs, PAIRS=blimp}"
: "${SUITES:?is not set: name the folder of SyntaxGym suites, SUITES=syntaxgym}"
: "${OUT:?is not set: name the folder to write, OUT=study}"
for name in TEXTS TREES PAIRS SUITES OUT; do
  [[ ${!name} == /* ]] || printf -v "$name" '%s/%s' "$PWD" "${!name}"
done
python=${PYTHON:-python}
[[ $python != */* || $python == /* ]] || python=$PWD/$python
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SHARE=${SHARE:-1} TREE_SHARE=${TREE_SHARE:-${SHARE:-1}} JOBS=${JOBS:-2} BEAM=${BEAM-10,5}
if awk "BEGIN { exit !($SHARE > 0 && $SHARE <= 0.2) }"; then
  : "${VOCABULARY:=4000}" "${SEEDS:=1,2}" "${ALPHAS:=0.5}" "${FOLDS:=0}"
  : "${PARSER:=--warmup-steps 20}" "${PARSER_EPOCHS:=6}"
  : "${TEACHER:=--embed-dim 64 --hidden-dim 64 --num-layers 1 --lr 0.01 --warmup-steps 50}"
  : "${STUDENT:=--embed-dim 64 --num-blocks 2 --num-heads 2 --batch-tokens 1024 --warmup-steps 50}"
  : "${GOLD_EPOCHS:=6}" "${SILVER_EPOCHS:=1}" "${STUDENT_EPOCHS:=2}" "${MIXTURE_SENTENCES:=200}"
else
  : "${VOCABULARY:=10000}" "${SEEDS:=1,2,3}" "${ALPHAS:=0.3,0.5,0.7}" "${FOLDS:=3}"
  : "${PARSER:=}" "${PARSER_EPOCHS:=8}"
  : "${TEACHER:=}"
  : "${STUDENT:=--embed-dim 192 --num-blocks 4 --num-heads 4}"
  : "${GOLD_EPOCHS:=7}" "${SILVER_EPOCHS:=2}" "${STUDENT_EPOCHS:=6}" "${MIXTURE_SENTENCES:=1000}"
fi
MAX_TOKENS=${MAX_TOKENS:-256} # sentences with more tokens are left out of all datasets
DEV_WORDS=${DEV_WORDS:-5000}  # words of dev from each source of raw text; no model trains on these documents
read -ra parser <<<"$PARSER"
read -ra teacher <<<"$TEACHER --threads 1 --device cpu"
read -ra student <<<"$STUDENT --num-epochs $STUDENT_EPOCHS"
IFS=, read -ra seeds <<<"$SEEDS"
IFS=, read -ra alphas <<<"$ALPHAS"
mkdir -p "$OUT"/{logs,done,raw/trees,text,trees,plan,data,teachers,students}
export OMP_NUM_THREADS=1

fail() {
  echo "study: $1" >&2
  exit 1
}

"$python" -c 'import importlib.util, sys
sys.exit(not all(map(importlib.util.find_spec, ("torch", "zarr", "tokenizers", "msgspec", "spacy", "benepar"))))' ||
  fail "$python cannot import the packages of this project; run make env, then set PYTHON=.venv/bin/python"
[[ -z $BEAM || $BEAM =~ ^[1-9][0-9]*,[1-9][0-9]*$ ]] || fail "BEAM is $BEAM, expected beam and word beam, such as 10,5, or nothing"
[[ $OUT != *,* ]] || fail "OUT is $OUT, expected a path without a comma"
((GOLD_EPOCHS > 0 && SILVER_EPOCHS > 0)) ||
  fail "GOLD_EPOCHS is $GOLD_EPOCHS and SILVER_EPOCHS is $SILVER_EPOCHS, expected numbers above 0, for the plan"

# Run a command once: `once NAME COMMAND...`. Its output goes to OUT/logs/NAME.log. When it has succeeded, OUT/done/NAME
# records the command. COMMAND may be a function below. Such a function must get all options that change its result as
# arguments, because `once` compares only arguments. `set -e` has no effect inside the function.
once() {
  local name=$1 start=$SECONDS
  shift
  if [[ -e $OUT/done/$name ]]; then
    [[ $(<"$OUT/done/$name") == "$*" ]] || fail "$name was made with other options, see $OUT/done/$name; give another OUT"
    return
  fi
  echo "study: $name" >&2
  "$@" >"$OUT/logs/$name.log" || fail "$name failed; run the same command again to go on"
  printf '%s' "$*" >"$OUT/done/$name"
  printf '%s\t%d\n' "$name" $((SECONDS - start)) >>"$OUT/seconds.tsv"
}

cli() { "$python" cli.py "$@"; }

# ---- 1. Cut and clean: a share of every document of the text.

# Write the lines of a file for train or for dev: `cut_text FILE train|dev SHARE DEV_WORDS OUT`. Documents 2, 22, 42 ...
# are for dev: their first lines, until DEV_WORDS words are taken in all. All other documents are for train: the first
# lines of each, until SHARE of the words of this document and those before it is taken.
cut_text() {
  gzip -cdf "$1" | awk -v part="$2" -v share="$3" -v dev_words="$4" '
    function flush(   i) {
      if (count && (++number % 20 == 2) == (part == "dev")) {
        for (i = 1; i <= count; i++) all += words[i]
        for (i = 1; i <= count && taken < (part == "dev" ? dev_words : all * share); i++) {
          print lines[i]
          taken += words[i]
        }
        print ""
      }
      count = 0
    }
    NF { lines[++count] = $0; words[count] = NF; next }
    { flush() }
    END { flush() }' >"$5"
}
sources=()
for file in "$TEXTS"/*.txt "$TEXTS"/*.txt.gz; do
  [[ -e $file ]] || continue
  name=$(basename "${file%.gz}" .txt)
  sources+=("$name")
  for part in train dev; do
    raw=$OUT/raw/$part-$name.txt
    once "cut-$part-$name" cut_text "$file" "$part" "$SHARE" "$DEV_WORDS" "$raw"
    [[ -s $raw ]] || fail "$file has a single document; put a blank line between documents"
    once "clean-$part-$name" cli clean-text "$raw" --source plain --source-name "$name" --out "$OUT/text/$part-$name"
  done
done
((${#sources[@]})) || fail "$TEXTS has no file SOURCE.txt or SOURCE.txt.gz"

# ---- 2. Trees and tokenizer: a share of the trees, and the dataset `gold`.

# Take a share of the lines of STEM.mrg, STEM.txt and STEM.docs: `thin STEM SHARE OUT_STEM`.
thin() {
  local suffix
  for suffix in mrg txt docs; do
    [[ -e $1.$suffix ]] || continue
    awk -v share="$2" 'int(NR * share + 1e-9) > int((NR - 1) * share + 1e-9)' "$1.$suffix" >"$3.$suffix" || return 1
  done
}
treebanks=()
for file in "$TREES"/*-train.mrg; do
  [[ -e $file ]] || fail "$TREES has no file NAME-train.mrg; make them with import-trees --out $TREES/NAME-train"
  name=$(basename "$file" -train.mrg)
  treebanks+=("$name")
  for part in train dev; do
    whole=$TREES/$name-$part raw=$OUT/raw/trees/$part-$name documents=()
    for suffix in mrg txt; do
      [[ -e $whole.$suffix ]] || fail "$whole.$suffix is missing; make it with import-trees --out $whole"
    done
    once "thin-$part-$name" thin "$whole" "$TREE_SHARE" "$raw"
    [[ ! -e $raw.docs ]] || documents=(--documents "$raw.docs" --source-name "$name")
    once "import-$part-$name" cli import-trees "$raw.mrg" --text "$raw.txt" "${documents[@]}" --out "$OUT/trees/$part-$name"
  done
done

gold_train=("${treebanks[@]/#/$OUT/trees/train-}") gold_dev=("${treebanks[@]/#/$OUT/trees/dev-}")
silver_train=("$OUT/trees/train-silver") silver_dev=("$OUT/trees/dev-silver")
texts=("${sources[@]/#/$OUT/text/train-}")
once tokenizer cli train-tokenizer "${gold_train[@]/%/.txt}" "${texts[@]/%/.txt}" --out "$OUT/tokenizer.json" \
  --vocab-size "$VOCABULARY"

# Set `stems` to the options of build-dataset for gold trees (`choose gold`), or for gold and silver trees (`choose gold silver`).
choose() {
  local kind stem
  stems=(--tokenizer "$OUT/tokenizer.json" --max-tokens "$MAX_TOKENS")
  for kind in "$@"; do
    local -n train_stems=${kind}_train dev_stems=${kind}_dev
    for stem in "${train_stems[@]}"; do stems+=(--train "$stem"); done
    for stem in "${dev_stems[@]}"; do stems+=(--dev "$stem"); done
  done
}
choose gold
once data-gold cli build-dataset "${stems[@]}" --out "$OUT/data/gold"

# ---- 3. The plan: rates of one process, measured once on small samples, and the hours that follow from them.

# Print values of a JSON file in one line: `figure FILE NAME.NAME...`. a.b is the value "b" of the object "a".
figure() {
  "$python" -c 'import functools, json, sys
value = json.load(open(sys.argv[1]))
print(*(functools.reduce(lambda found, name: found[name], path.split("."), value) for path in sys.argv[2:]))' "$@"
}
# Train a parser for one epoch on about 300 trees. Print its trees per second, taken from the last line of its progress.
sample_parser() {
  rm -f "$OUT"/plan/parser.pt* || return 1
  cat "${gold_train[@]/%/.mrg}" | awk -v every=$((trees / 300 + 1)) 'NR % every == 0' >"$OUT/plan/few.mrg" || return 1
  cli train-parser "$OUT/plan/few.mrg" --dev "$OUT/plan/few.mrg" --out "$OUT/plan/parser.pt" --num-epochs 1 "$@" 2>&1 >/dev/null |
    tee >(cat >&2) | tr '\r' '\n' | sed -nE 's|.* ([0-9.,]+) sentences/s, took.*|\1|p' | tail -n 1 | tr -d , | grep .
}
# Print the number of positions of text: the tokens of each line, and its <eos>. `count_positions TOKENIZER FILE...`.
count_positions() {
  "$python" -c 'import itertools, sys, tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
lines = (line.strip() for path in sys.argv[2:] for line in open(path, encoding="utf-8"))
batches = iter(lambda: list(itertools.islice(lines, 10000)), [])
print(sum(len(line.ids) + 1 for batch in batches for line in tokenizer.encode_batch(batch)))' "$@"
}
planned() { cli "$@" --plan --plan-processes 1 --json; }
trees=$(cat "${gold_train[@]/%/.mrg}" | wc -l)
gold=(--data "$OUT/data/gold" --out "$OUT/plan/nothing") # a plan writes nothing
once inspect-gold cli inspect "$OUT/data/gold" --json
once plan-positions count_positions "$OUT/tokenizer.json" "${texts[@]/%/.txt}"
once plan-parser sample_parser "${parser[@]}"
once plan-parse planned parse "${texts[@]/%/.txt}" --model "$OUT/plan/parser.pt" --out "$OUT/plan/trees"
once plan-teacher planned train-teacher "${gold[@]}" "${teacher[@]}"
once plan-student planned train-student "${gold[@]}" "${student[@]}" --threads 1 --device cpu
# The plan of a dump needs a teacher, so a teacher is trained for one step.
once plan-step cli train-teacher --data "$OUT/data/gold" --out "$OUT/plan/step" "${teacher[@]}" --max-steps 1
once plan-dump planned dump-teacher --data "$OUT/data/gold" --teacher "$OUT/plan/step" --device cpu
search=(--condition beam --beam "${BEAM%,*}" --word-beam "${BEAM#*,}")
[[ -z $BEAM ]] || once plan-beam planned dump-teacher --data "$OUT/data/gold" --teacher "$OUT/plan/step" --device cpu "${search[@]}"

log=$OUT/logs
positions=$(figure "$log/inspect-gold.log" splits.train.num_positions)
read -r sentences words parse_rate <<<"$(figure "$log/plan-parse.log" num_sentences num_words sentences_per_s)"
awk -v jobs="$JOBS" -v sentences="$sentences" -v words="$words" -v gold="$positions" -v text="$(<"$log/plan-positions.log")" \
  -v trees="$trees" -v folds="$FOLDS" -v gold_epochs="$GOLD_EPOCHS" -v silver_epochs="$SILVER_EPOCHS" \
  -v student_epochs="$STUDENT_EPOCHS" -v seeds=${#seeds[@]} -v alphas=${#alphas[@]} -v beam="$BEAM" \
  -v parser="$(<"$log/plan-parser.log")" -v parse="$parse_rate" \
  -v parser_epochs="$PARSER_EPOCHS" -v teacher="$(figure "$log/plan-teacher.log" positions_per_s.1)" \
  -v student="$(figure "$log/plan-student.log" positions_per_s.1)" \
  -v dump="$(figure "$log/plan-dump.log" positions_per_s.one_process)" \
  -v bytes="$(figure "$log/plan-dump.log" bytes_per_position)" \
  -v search="$([[ -z $BEAM ]] || figure "$log/plan-beam.log" positions_per_s.one_process)" '
  function line(name, amount, unit, rate, together) {
    if (!(rate + 0 > 0 && amount + 0 > 0)) {
      print "study: " name ": " amount " " unit ", rate " rate ", expected numbers above 0" >"/dev/stderr"
      exit 1
    }
    hours = amount / rate / together / 3600
    total += hours
    printf "%-28s %12.0f %-10s %9.1f per second %9.2f hours\n", name, amount, unit, rate, hours
  }
  BEGIN {
    all = gold + text
    students = 5 * seeds + alphas + (folds > 0) + (beam != "") # alphas - 1 that are not chosen, and a mixture
    dumps = 2 + seeds + (folds > 0)
    printf "%d words of text, %d trees; processes at a time: %d\n", words, trees, jobs
    line("parser", trees * parser_epochs, "trees", parser, 1)
    line("parse", sentences, "sentences", parse, jobs)
    right = gold * gold_epochs > all * silver_epochs ? gold * gold_epochs : all * silver_epochs # at most
    teachers = gold * gold_epochs + right + all * silver_epochs * (1 + (folds > 0) * (folds - 1))
    line("teachers", teachers, "positions", teacher, jobs)
    if (beam != "") line("dump by beam search", all, "positions", search, jobs)
    line("dumps without a search", all * dumps, "positions", dump, jobs)
    line(students " students", all * student_epochs * students, "positions", student, jobs)
    printf "%-28s %53.2f hours\n", "all, without the measures", total
    printf "%-28s %53.1f GB\n", "size of the dumps", all * (dumps + (beam != "")) * bytes / 1e9
  }' || fail "there is no plan; see $log/plan-*.log"
[[ -z ${PLAN:-} ]] || exit 0

# ---- 4. Silver trees: a parser that is trained on the gold trees parses the text.

parse_text() { cli parse "$@" --workers "$JOBS"; } # JOBS may change, so `once` must not see it
devs=()
for stem in "${gold_dev[@]}"; do devs+=(--dev "$stem.mrg"); done
once parser cli train-parser "${gold_train[@]/%/.mrg}" "${devs[@]}" --out "$OUT/parser.pt" \
  --num-epochs "$PARSER_EPOCHS" "${parser[@]}"
for part in train dev; do
  texts=("${sources[@]/#/$OUT/text/$part-}")
  once "parse-$part" parse_text "${texts[@]/%/.txt}" --model "$OUT/parser.pt" --out "$OUT/trees/$part-silver"
done

# ---- 5. Datasets: `silver` has gold and silver trees; `right` has the same sentences with right-branching trees.

choose gold silver
folds=()
((FOLDS == 0)) || folds=(--folds "$FOLDS")
once data-silver cli build-dataset "${stems[@]}" "${folds[@]}" --out "$OUT/data/silver"
once data-right cli build-dataset "${stems[@]}" --trees right --out "$OUT/data/right"

# ---- 6. Teachers, and a student without a dump. Of the gold and the silver teacher, one is dumped: the teacher whose mixture
# with this student gains more.

parallel() { "$python" -m torch.distributed.run --standalone --nproc-per-node "$JOBS" cli.py "$@"; }
train_teacher() { # NAME DATA EPOCHS OPTIONS...
  once "teacher-$1" parallel train-teacher --data "$OUT/data/$2" --out "$OUT/teachers/$1" --num-epochs "$3" "${teacher[@]}" \
    "${@:4}"
}
train_teacher gold gold "$GOLD_EPOCHS"
train_teacher silver silver "$SILVER_EPOCHS"

once inspect-silver cli inspect "$OUT/data/silver" --json
words=$(figure "$log/inspect-silver.log" splits.train.num_words)
curve=$(awk -v all="$((words * STUDENT_EPOCHS))" 'BEGIN { printf "%d,%d,%d,%d,%d", all / 16, all / 8, all / 4, all / 2, all * 0.7 }')
student+=(--word-checkpoints "$curve")
# benchmarks.distillation also asks for this run, and will find it finished.
once baseline cli train-student --data "$OUT/data/silver" --out "$OUT/students/baseline-seed${seeds[0]}" --seed "${seeds[0]}" \
  --threads 1 --device cpu "${student[@]}"
measure_teacher() { # NAME DATA
  once "perplexity-$1" cli evaluate perplexity "$OUT/teachers/$1" --data "$OUT/data/$2" --split dev --device cpu
  once "mixture-$1" cli evaluate mixture "$OUT/teachers/$1" "$OUT/students/baseline-seed${seeds[0]}" --data "$OUT/data/$2" \
    --max-sentences "$MIXTURE_SENTENCES" --beam 10 --word-beam 5 --device cpu --json
  conclusion=$(figure "$log/mixture-$1.log" conclusion)
  echo "teacher $1: $conclusion"
}
measure_teacher gold silver
measure_teacher silver silver
gold_gain=$(figure "$log/mixture-gold.log" gain_nats) silver_gain=$(figure "$log/mixture-silver.log" gain_nats)
best=silver data=right epochs=$SILVER_EPOCHS
if awk "BEGIN { exit !($gold_gain >= $silver_gain) }"; then best=gold data=right-gold epochs=$GOLD_EPOCHS; fi
echo "the teacher to dump is $best"
# The teacher of right-branching trees reads as many sentences as the teacher to dump.
if [[ $best == gold ]]; then
  choose gold
  once data-right-gold cli build-dataset "${stems[@]}" --trees right --out "$OUT/data/right-gold"
fi
train_teacher right "$data" "$epochs"
measure_teacher right right

# ---- 7. Students: all controls and seeds, with perplexity, minimal pairs and SyntaxGym.

students() { "$python" -m benchmarks.distillation --jobs "$JOBS" "$@"; }
study=(--data "$OUT/data/silver" --teacher "$OUT/teachers/$best" --pairs "$PAIRS" --suites "$SUITES"
  --split dev --out "$OUT/students" --json "$OUT/results.json" --alphas "$ALPHAS" --seeds "$SEEDS"
  --right "$OUT/data/right,$OUT/teachers/right" --mixture)
once_only=mixture # these students are trained with the first seed only
[[ -z $BEAM ]] || study+=(--beam "$BEAM") once_only+=,given-the-tree
if ((FOLDS > 0)); then
  runs=()
  for ((fold = 1; fold <= FOLDS; fold++)); do
    train_teacher "fold$fold" silver "$SILVER_EPOCHS" --leave-out "$fold"
    runs+=("$OUT/teachers/fold$fold")
  done
  study+=(--folds "$(IFS=,; echo "${runs[*]}")") once_only+=,folds
fi
study+=(--first-seed-only "$once_only")
# benchmarks.distillation makes all dumps, and finds this one finished. It takes longest, so JOBS processes make it.
[[ -z $BEAM ]] || once dump parallel dump-teacher --data "$OUT/data/silver" --teacher "$OUT/teachers/$best" \
  --out "$OUT/students/dump" --device cpu "${search[@]}"
once students students "${study[@]}" -- "${student[@]}"
cat "$OUT/logs/students.log"
distilled=$(figure "$OUT/results.json" distilled) # such as "alpha 0.5"
distilled=${distilled// /}

# ---- 8. More measures: perplexity by source, surprisal against the teacher, curves over the words seen; the report.

awk 'NF <= 60 && number++ % 20 == 0' "$OUT/trees/dev-silver.txt" >"$OUT/surprisal.txt"
[[ -s $OUT/surprisal.txt ]] || fail "$OUT/trees/dev-silver.txt has no sentence of at most 60 words"
for run in "teachers/$best" "students/baseline-seed${seeds[0]}" "students/$distilled-seed${seeds[0]}"; do
  once "surprisal-${run##*/}" cli evaluate surprisal "$OUT/$run" "$OUT/surprisal.txt" --out "$OUT/surprisal-${run##*/}.tsv" \
    --device cpu
  [[ $run != teachers/* ]] || continue
  # Pearson's correlation of the surprisals of all words and sentence ends with those of the teacher.
  paste "$OUT/surprisal-$best.tsv" "$OUT/surprisal-${run##*/}.tsv" | awk -F '\t' -v run="$run" '
    NR == 1 { for (i = 1; i <= NF; i++) if ($i == "surprisal_bits") column[++found] = i; next }
    { x = $column[1]; y = $column[2]; n++; sx += x; sy += y; xx += x * x; yy += y * y; xy += x * y }
    END {
      r = (n * xy - sx * sy) / sqrt((n * xx - sx * sx) * (n * yy - sy * sy))
      printf "surprisal of %d words and sentence ends: correlation with the teacher %.3f, %s\n", n, r, run
    }'
done
for name in baseline "$distilled"; do
  for seed in "${seeds[@]}"; do
    run=$OUT/students/$name-seed$seed
    once "by-source-$name-seed$seed" cli evaluate perplexity "$run" --data "$OUT/data/silver" --split dev --device cpu
    echo "$name, seed $seed: perplexity on dev"
    awk '/^[^ ]/ { shown = /, by source/ } shown' "$log/by-source-$name-seed$seed.log"
    for words in ${curve//,/ }; do
      point=words_$words # words_2500k and words_3M are the names of round numbers
      ((words % 1000)) || point=words_$((words / 1000))k
      ((words % 1000000)) || point=words_$((words / 1000000))M
      [[ -e $run/checkpoints/$point ]] || continue
      step=curve-$name-seed$seed-$point
      once "$step-perplexity" cli evaluate perplexity "$run" --data "$OUT/data/silver" --checkpoint "$point" --device cpu --json
      once "$step-pairs" cli evaluate minimal-pairs "$run" "$PAIRS" --checkpoint "$point" --device cpu --json
      perplexity=$(figure "$log/$step-perplexity.log" unconditional.per_token)
      accuracy=$(figure "$log/$step-pairs.log" accuracy_macro)
      LC_ALL=C printf '%d words, %s, seed %d: perplexity %.2f, minimal pairs %.4f\n' "$words" "$name" "$seed" "$perplexity" "$accuracy"
    done
  done
done
runs=("$OUT"/students/*/run.json) # the folder also has dumps
runs=("${runs[@]%/run.json}")
once compare cli compare "${runs[@]}"
once report cli report "$OUT"/teachers/* "${runs[@]}" --data "$OUT/data/silver" --out "$OUT/report.html"
cat "$OUT/logs/compare.log"
echo "study: done. $OUT/report.html shows the runs, $OUT/seconds.tsv has the seconds of the last start of each step"
