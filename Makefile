# Two commands do all the set-up: `make demo` and `make test`. PYTHON picks the interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test types tests clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,tensorboard]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m genmodels.demo

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs=2 types tests

types:
	$(BIN)/basedpyright

tests:
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build *.egg-info
