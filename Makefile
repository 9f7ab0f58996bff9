# Every target makes .venv in the checkout if need be and uses it.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# Each worker starts with its half of the tests in order and takes over from the other only at the end: fixtures of a
# module are made once, and neither worker waits for long.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
AT ?= tests

.PHONY: install audit quick test check bench bench-smoke clean

audit: install  ## the main job on the embedded digits
	$(BIN)/genmem audit digits --out runs/digits

quick: install  ## the tests that are done at once; those of one folder or file with AT=tests/...
	$(PYTEST) -m "not gpu and not slow" $(PYTEST_ARGS) $(AT)

test: install  ## all tests, doctests and README commands
	$(PYTEST) --doctest-modules $(PYTEST_ARGS)

check: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## measured comparisons (see bench/README.md)
	$(BIN)/python bench/run.py

bench-smoke: install  ## all of them at tiny sizes: do they work?
	$(BIN)/python bench/run.py --smoke

install: .venv/installed

# setuptools comes first: the package is built with it rather than in an isolated environment.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist runs *.egg-info
