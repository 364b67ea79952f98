# Everything sets itself up in .venv; only python3 (3.10 or newer, with venv and pip) and make are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A worker of pytest-xdist on each core. `make test PARALLEL=` runs the tests in one process, for a debugger, say.
PARALLEL ?= -n auto --maxprocesses 8 --dist worksteal
SOAK_MINUTES ?= 10

.PHONY: help setup demo docs test test-slow soak lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(STAMP)  ## install the package, editable, with the development tools

$(STAMP): setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "detrex_lite needs Python 3.10 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(STAMP)  ## draw a data set, train a small detector on it, evaluate it and show what it sees; ARGS=--masks: with masks
	$(BIN)/python tools/demo.py $(ARGS)

docs: $(VENV)/.docs  ## build the site, build/site/index.html; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	touch $@

test: $(STAMP) lint  ## linter, type checker and tests; no network, no GPU
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: $(STAMP)  ## the tests that take longer
	$(BIN)/python -m pytest -m slow $(ARGS)

soak: $(STAMP)  ## kill training runs at random moments and let them go on, for SOAK_MINUTES=10
	SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m pytest -m soak -s tests/engine/test_soak.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/check_types.py

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) output build dist *.egg-info
