# Every target sets up what it needs, in .venv. PYTHON names the interpreter, 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# One process per core, at most eight, with one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8

.PHONY: setup demo test check slow bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train on digits, draw samples, measure bits/dim (about 3 minutes on two cores)"
	@echo "make test   run the tests"
	@echo "make check  lint, types and tests, as a change has to pass them"
	@echo "make slow   the slow tests: kill -9 at 20 random moments, two processes, 42 more losses"
	@echo "make bench  the performance claims, each a ratio measured here"
	@echo "make setup  a development environment in .venv"

setup: .venv/dev

demo: .venv/core
	$(BIN)/elbos train digits --run runs/demo
	$(BIN)/elbos sample runs/demo --num 100 --out runs/demo/samples/grid
	$(BIN)/elbos evaluate runs/demo --num-samples 2000
	@echo
	@echo "Look at: runs/demo/samples/grid.png  (one digit per column)"
	@echo "         runs/demo/eval.html         (bits/dim, the loss by noise level, sample quality)"

test: .venv/dev
	$(PYTEST)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

slow: .venv/dev
	$(BIN)/pytest -m slow

bench: .venv/dev .venv/bench
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/audit.py
	$(BIN)/python benchmarks/digits.py --runs runs/digits-benchmark --seeds 0
	$(BIN)/python benchmarks/variance.py runs/digits-benchmark/sigmoid-2-0
	$(BIN)/elbos train fashion
	$(BIN)/python benchmarks/evaluation.py runs/fashion
	$(BIN)/python benchmarks/likelihood.py runs/fashion

clean:
	rm -rf .venv

.venv/core: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/dev: .venv/core
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.venv/bench: .venv/core
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
