# make fit: install and train with configs/eform.yaml.   make test: install and run the tests.
# Variables to set on the command line: PYTHON (interpreter), VENV (environment), CONSTRAINTS (pinned versions), CONFIG
# (config of fit), ARGS (more arguments of the command).
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
CONFIG ?= configs/eform.yaml
ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup fit test test-all lint types clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## create the virtual environment and install the package with its tools

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "crystalgfn needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	@touch $@

fit: $(READY) ## train a model, by default for crystals of low formation energy
	$(BIN)/crystalgfn fit --config $(CONFIG) $(ARGS)

test: $(READY) ## run the tests, except the long ones
	$(BIN)/python -m pytest $(ARGS)

test-all: $(READY) ## run all tests, including the long ones, which train models or kill runs
	$(BIN)/python -m pytest -m "" $(ARGS)

lint: $(READY) ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## check types
	$(BIN)/mypy

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
