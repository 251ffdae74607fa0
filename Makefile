# make demo    set up, train the lab pair's bridge and print what each arm scores
# make test    every test            make check   ruff, format, pyright: what CI runs
# make bench   what we claim about speed, as ratios measured in one run
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check bench format clean

demo: $(VENV)/.runtime
	$(BIN)/helmas train --profile lab --out runs/demo --overwrite
	$(BIN)/helmas eval --profile lab --bridge runs/demo --dataset relay,arithmetic --out runs/demo
	$(BIN)/helmas inspect-cache --bridge runs/demo --out runs/demo

test: $(VENV)/.dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.runtime
	$(BIN)/python -m bench

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf dist build .pytest_cache .ruff_cache .hypothesis

# What users install, and that plus the tools: each marker file is as new as its last set-up.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.runtime

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "helmas needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
