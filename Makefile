# make fit: set up and train the main job.   make test: set up and run the tests.
# Override on the command line: PYTHON (interpreter), VENV (environment), CONSTRAINTS (pinned versions), CONFIG, ARGS.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
CONFIG ?= configs/eform.yaml
ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup fit test test-all lint types clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## create the virtual environment and install the package with its tools

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "crystalgfn needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	@touch $@

fit: $(READY) ## train the main job: crystals of low formation energy
	$(BIN)/crystalgfn fit --config $(CONFIG) $(ARGS)

test: $(READY) ## run the tests, the long ones left out
	$(BIN)/python -m pytest $(ARGS)

test-all: $(READY) ## run all tests, also those that train and kill for long
	$(BIN)/python -m pytest -m "" $(ARGS)

lint: $(READY) ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## check types
	$(BIN)/mypy

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
