# Everything runs from .venv, which `make install` builds from setup.cfg and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
# The extra `foreign` with those of its requirements that its tests import.
FOREIGN := denoising-diffusion-pytorch einops ema-pytorch monai torchsde trampoline

# Threads of OpenMP that spin for long starve each other on shared cores: docs/decisions.md.
export GOMP_SPINCOUNT ?= 10000

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test torture lint docs benchmark audit clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(STAMP) ## build .venv (skipped while it is up to date)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "constraints.txt needs Python 3.11 or newer, $(PYTHON) is older: make install PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@for package in $(FOREIGN); do \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $$package || \
			echo "$$package cannot be installed: the tests that need it will be skipped"; \
	done
	touch $@

demo: $(STAMP) ## train, unlearn, sample, attribute and report on handwritten digits
	$(BIN)/guda run -c configs/digits.yaml

test: $(STAMP) ## run the tests (make test ARGS="-k store")
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

torture: $(STAMP) ## kill, damage, fuzz, and all tests that take minutes (make torture ARGS="kills --seed 7")
	OMP_NUM_THREADS=1 PYTHONPATH=tests:. $(BIN)/python -m torture $(ARGS)

lint: $(STAMP) ## check style, types, layers and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports
	$(MAKE) docs

docs: $(STAMP) ## build the site in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

benchmark: $(STAMP) ## measure and rewrite the tables of docs/benchmarks.md
	$(BIN)/python -m benchmarks

audit: $(STAMP) ## look up known vulnerabilities of what is installed (asks PyPI)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

clean: ## remove what builds and tools left; keeps .venv and runs/
	rm -rf build dist src/*.egg-info docs/_build docs/api_modules .coverage
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(wildcard src tests benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +
