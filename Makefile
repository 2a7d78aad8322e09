# Every verb of the project, for people and for CI. The machine brings python3 (3.11 or newer), git and make;
# uv is used where it is on PATH and else fetched once into .uv/, pinned by hash in requirements-uv.lock.
# Variables given on the command line (PROVIDER=modal, KILL=worker) reach the programs as environment; args="..." as arguments.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint format types arch up bench lock clean setup

PYTHON ?= python3
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)
PIN := --require-hashes --only-binary :all: --quiet --disable-pip-version-check --root-user-action=ignore
COMPILE := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
           --custom-compile-command "make lock"
BIN := .venv/bin
STAMP := .venv/.installed

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## Two real jobs in one session, end to end on real parts, shown and checked
	@$(BIN)/python -m examples.demo $(args)

# Three at a time on two cores: the tests mostly wait for servers and agents.
test: lint types arch ## Check everything: lint, types, arch, then the tests (args="-k name")
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(args)

lint: $(STAMP) ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## Repair what lint can repair by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP) ## Check types, strictly
	@$(BIN)/mypy

arch: $(STAMP) ## Check which way imports point
	@$(BIN)/lint-imports --no-logo

up: $(STAMP) ## Start the whole stack here: Postgres, Temporal with its UI, worker, HTTP
	@exec $(BIN)/python -m worker up $(args)

bench: $(STAMP) ## Measure
	@$(BIN)/python -m bench $(args)

lock: | $(UV) ## Write the lock files anew (args=--upgrade takes newer versions)
	$(UV) $(COMPILE) pyproject.toml --all-extras --group dev $(args) -o requirements.lock
	$(UV) $(COMPILE) --group uv $(args) -o requirements-uv.lock

clean: ## Remove what make made; the state of the stack in .dogwatch/ stays
	rm -rf .venv .uv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(STAMP) ## Install what the lock says into .venv; every other verb does it by itself

# Exactly the lock, each file checked against its hash, then the project itself, built by the locked hatchling: no network.
$(STAMP): pyproject.toml requirements.lock | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than 3.11: install a newer one, or name it with PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(UV) venv --quiet --clear --python "$$(command -v $(PYTHON))" .venv
	@echo "installing requirements.lock into .venv"
	@$(UV) pip sync --quiet --python .venv --require-hashes requirements.lock
	@$(UV) pip install --quiet --python .venv --offline --no-deps --no-build-isolation --editable .
	@touch $@

# Debian's python3 may lack ensurepip (package python3-venv); then pip itself can still fill a directory.
.uv/bin/uv: requirements-uv.lock
	@echo "no uv on PATH: fetching the pinned one into .uv/"
	@rm -rf .uv
	@{ $(PYTHON) -m venv .uv && .uv/bin/python -m pip install $(PIN) -r $<; } >/dev/null 2>&1 \
	  || { rm -rf .uv; $(PYTHON) -m pip install $(PIN) --target .uv -r $<; } \
	  || { rm -rf .uv; echo "cannot get uv: put uv on PATH, or install python3-venv or python3-pip, then run make again" >&2; exit 1; }
	@touch $@
