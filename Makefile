# Every target sets up what it needs in $(VENV). PIP_ARGS goes to pip, to choose a torch build for example.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
SOURCES := $(shell git ls-files '*.py' 2>/dev/null)

# a second environment, with the Triton that GPU machines have
VENV36 ?= .venv-triton36
BIN36 := $(VENV36)/bin
QUIET := -W ignore::RuntimeWarning:triton.runtime.interpreter -W ignore::DeprecationWarning:triton.runtime.interpreter

.PHONY: demo test lint check check-kernels fuzz torture format clean

demo: $(VENV)/.demo
	$(BIN)/logitstore demo

# two at a time, a core each; the S3 tests share one server
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadfile --ignore tests/s3

test: $(VENV)/.dev
	$(PYTEST) $(PARALLEL)
	$(PYTEST) tests/s3

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(PYTEST) $(PARALLEL) -q -m "not teacher"

check-kernels: $(VENV)/.dev $(VENV36)/.kernels
	$(BIN)/python -m bench.check_kernels --table bench/results/kernels.md
	$(BIN36)/python -m bench.check_kernels --table bench/results/kernels.md
	TRITON_INTERPRET=1 $(BIN36)/python -m pytest -q $(QUIET) tests/triton_kernels/cases_*.py

# coverage-guided fuzzing of the codec; a finding is left as crash-*
FUZZ_SECONDS ?= 60

fuzz: $(VENV)/.dev $(VENV)/.fuzz
	$(BIN)/python -m tests.codec.fuzz_decode .fuzz-corpus -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096

# kills, faults, full disks and damage, in full size; the table of results is bench/results/torture.json
torture: $(VENV)/.dev
	LOGITSTORE_TORTURE=1 $(BIN)/python -m pytest -q tests/torture tests/s3

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and by itself, at the pinned release: a resolver left to itself may fetch another build of it
$(VENV)/.torch: constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) "$$(grep '^torch==' constraints-dev.txt)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints-dev.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints-dev.txt -e '.[dev]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet atheris==3.0.0
	touch $@

$(VENV36)/.kernels: constraints-dev.txt
	$(PYTHON) -m venv $(VENV36)
	$(BIN36)/python -m pip install --quiet $(PIP_ARGS) "$$(grep '^torch==' constraints-dev.txt)"
	$(BIN36)/python -m pip install --quiet triton==3.6.0 "numpy<2.4" "pytest>=8"
	touch $@

clean:
	rm -rf $(VENV) $(VENV36) .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz-corpus demo-out
