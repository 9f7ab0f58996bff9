# Every target makes .venv in the checkout if need be and uses it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install audit check test bench clean

audit: install  ## the main job on the embedded digits
	$(BIN)/genmem audit digits --out runs/digits

test: install  ## the tests, doctests and README commands
	$(BIN)/python -m pytest

check: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## measured comparisons (see bench/README.md)
	$(BIN)/python bench/training.py
	$(BIN)/python bench/leaveout.py
	$(BIN)/python bench/scaling.py
	$(BIN)/python bench/posterior.py
	$(BIN)/python bench/search.py
	$(BIN)/python bench/regions.py
	$(BIN)/python bench/densities.py --sizes 2000 10000
	$(BIN)/python bench/held_out.py
	$(BIN)/python bench/influence.py

install: .venv/installed

# setuptools comes first: the package is built with it rather than in an isolated environment.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist runs *.egg-info
