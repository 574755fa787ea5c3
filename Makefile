# make demo    create the environment, then run all steps on the built-in corpus and write an HTML report
# make test    create the environment, then run all tests
# make soak    run the tests of kills, damage and full disks ten times as long, then fuzz the readers of trees
# make check   run ruff, mypy and the tests, as .ci/run does
# make compat  load an export with the oldest and the newest supported transformers; EXPORT=DIR names the export
# make bench   run the benchmarks briefly; python -m benchmarks.NAME runs one of them in full

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo-output
COMPAT_TRANSFORMERS ?= 4.51.3 5.24.0
EXPORT ?=

.PHONY: env demo test soak lint check compat bench lock

env: $(VENV)/installed

# Install torch first, at its exact version: an open range may download gigabytes of CUDA libraries.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --requirement requirements.lock
	touch $@

demo: env
	$(BIN)/python cli.py demo --out $(DEMO_OUT)

# One test process per core, but at most four: many tests start several processes themselves. The files keep their order:
# those of the commands are the slowest and come first, and a slow file at the end would leave the other cores idle.
test: env
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

# With RNNG_DISTILL_SOAK, each command of a test is a new Python. In `make test` it is a fork (tests/forked_commands.py).
soak: env
	RNNG_DISTILL_SOAK=10 $(BIN)/python -m pytest -m faults --timeout 7200
	$(BIN)/python -m tests.fuzz_trees -max_total_time=60

compat: env $(foreach version,$(COMPAT_TRANSFORMERS),build/compat-$(version)/installed)
	$(BIN)/python -m tests.compat_expected build/compat $(if $(EXPORT),--export "$(EXPORT)")
	for version in $(COMPAT_TRANSFORMERS); do \
	  build/compat-$$version/bin/python tests/compat_check.py build/compat/expected.json || exit 1; \
	done

build/compat-%/installed:
	$(PYTHON) -m venv build/compat-$*
	build/compat-$*/bin/pip install --quiet $$(grep '^torch==' requirements.lock)
	build/compat-$*/bin/pip install --quiet transformers==$*
	touch $@

bench: env
	$(BIN)/python -m benchmarks.teacher --quick
	$(BIN)/python -m benchmarks.storage --quick
	$(BIN)/python -m benchmarks.dump --quick
	$(BIN)/python -m benchmarks.student --quick
	$(BIN)/python -m benchmarks.rows --quick

lock: env
	$(BIN)/pip freeze --exclude-editable | sed "s/^torch==\([0-9.]*\).*/torch==\1/; s/^atheris==.*/&; sys_platform == 'linux'/" > requirements.lock
