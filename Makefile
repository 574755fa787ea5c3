# make demo   environment, then the whole way on the built-in corpus, ending with an HTML report
# make test   environment, then all tests
# make soak   the tests of faults, ten times as long, and a minute of fuzzing the readers of trees
# make check  ruff, mypy and the tests, as .ci/run does
# make compat what is exported, loaded by the oldest and the newest transformers meant; EXPORT=DIR checks that one
# make bench  the benchmarks, quickly; each is a command, python -m benchmarks.NAME

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo-output
COMPAT_TRANSFORMERS ?= 4.51.3 5.24.0
EXPORT ?=

.PHONY: env demo test soak lint check compat bench lock

env: $(VENV)/installed

# torch first and exactly: an open range may fetch gigabytes of CUDA libraries.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --requirement requirements.lock
	touch $@

demo: env
	$(BIN)/python cli.py demo --out $(DEMO_OUT)

test: env
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

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
	$(BIN)/pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\).*/torch==\1/' > requirements.lock
