# Every target sets up what it needs, in .venv. PYTHON names the interpreter, 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Of the 14,000 files that pip would compile, most are never imported: the first import compiles.
export PIP_COMPILE := 0
# One process per core, at most eight, with one thread each; files stay together, for what their tests share.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

# Another Python, with torch of its own: Debian's.
SYSTEM_PYTHON ?= /usr/bin/python3

.PHONY: setup demo quick test test-core test-system-python lint check slow bench gallery pages docs release-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   audit a loss, compare two objectives on digits, three seeds each, with a report"
	@echo "make quick  the mathematics, and a tenth of the losses: a minute and a half, for each change"
	@echo "make test   run the tests"
	@echo "make test-system-python   every verb on Debian's Python and torch, with the newest NumPy"
	@echo "make test-core   the audit and the validator without any extra, and the core beside older trainers"
	@echo "make check  lint, types and tests, as a change has to pass them"
	@echo "make slow   the slow tests: kill -9 at random moments, two processes, Ray, more losses and seeds"
	@echo "make bench  the performance claims, each a ratio measured here"
	@echo "make gallery  docs/gallery/index.html: what published losses weigh"
	@echo "make pages  the gallery, and the reports of docs/results/fashion and digits: pages that git does not hold"
	@echo "make release-check  builds what is published, and checks it"
	@echo "make docs   the documentation as a site, site/html/index.html: guides, reference, search"
	@echo "make setup  a development environment in .venv"

setup: .venv/dev

# EDM's loss, audited; then its weighting against the ELBO's, with samples and bits/dim.
demo: .venv/demo
	$(BIN)/elbos audit examples/audit/edm.py:loss --shape 3 8 8
	$(BIN)/elbos compare digits --objectives edm-adaptive elbo --seeds 0 1 2 \
	  --network.channels 32 64 --num-images 50000 --scoring.num-samples 297 \
	  --samplers "heun=Heun(),18" --workers 2 --out runs/demo

quick: .venv/dev
	$(PYTEST) --quick $(addprefix tests/,theory validation models \
	  audit/test_recipes.py audit/test_held_out_losses.py audit/test_refused_losses.py)

test: .venv/dev
	$(PYTEST)

test-system-python:
	@if $(SYSTEM_PYTHON) -c 'import torch, venv' 2>/dev/null; then \
	  $(MAKE) .venv/system && OMP_NUM_THREADS=1 .venv/system/bin/python tests/project/every_verb.py; \
	else echo "skipped: $(SYSTEM_PYTHON) has no torch or venv"; fi

# What trainers pin that were written for accelerate 1.6.
PINNED := accelerate==1.6.0 huggingface-hub==0.34.3 safetensors==0.4.5 rich==14.1.0

test-core: .venv/dev
	rm -rf .venv/wheel
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir .venv/wheel .
	$(BIN)/pip install --quiet --disable-pip-version-check --dry-run .venv/wheel/*.whl $(PINNED)
	$(BIN)/python tests/project/core.py .venv/wheel/*.whl

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

slow: .venv/dev .venv/slow
	$(BIN)/pytest -m slow

bench: .venv/dev .venv/bench
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/audit.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/samplers.py
	$(BIN)/python benchmarks/mixture.py
	$(BIN)/elbos train fashion
	$(BIN)/python benchmarks/evaluation.py runs/fashion
	$(BIN)/elbos train fashion-small --run runs/checkpoints --num-images 99456 --output.num-kept 21 \
	  --output.save-every 4736
	$(BIN)/python benchmarks/validation.py errors runs/checkpoints

gallery: .venv/dev
	$(BIN)/python docs/gallery/make.py

pages: gallery
	$(BIN)/python docs/results/objectives.py fashion
	$(BIN)/python docs/results/objectives.py digits

release-check: .venv/release
	rm -rf dist
	.venv/release/bin/python -m build --quiet
	.venv/release/bin/validate-pyproject pyproject.toml
	.venv/release/bin/twine check --strict dist/*
	.venv/release/bin/check-wheel-contents dist/*.whl

docs: gallery
	OMP_NUM_THREADS=1 $(BIN)/python docs/site/build.py

clean:
	rm -rf .venv site

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[evaluate]'
	@touch $@

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/demo $@

# From a wheel, with the newest of everything but for torch.
.venv/system: pyproject.toml $(shell find src -type f)
	$(SYSTEM_PYTHON) -m venv --system-site-packages --clear $@
	$@/bin/pip freeze --all | grep -E '^torch==' > $@/constraints.txt
	$@/bin/pip install --quiet --disable-pip-version-check --upgrade --constraint $@/constraints.txt numpy '.[evaluate]'

.venv/slow: .venv/dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[ray]' ipykernel nbclient
	@touch $@

.venv/release: pyproject.toml
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check build check-wheel-contents twine 'validate-pyproject[all]'
	@touch $@

.venv/bench: .venv/dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
