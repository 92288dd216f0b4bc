# `make demo` and `make test` need Python 3.11 or later and make, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# The checksum of the path is part of the stamps' names, because a moved virtual environment is broken.
PLACE := $(shell printf %s "$(CURDIR)" | cksum | cut -d ' ' -f 1)
DEMO_READY := .venv/.demo-$(PLACE)
DEV_READY := .venv/.dev-$(PLACE)
LOCK := requirements-dev.lock
LOCK_ARGS := --upgrade
EXAMPLES := $(basename $(notdir $(wildcard examples/*.py)))

.DEFAULT_GOAL := help
.PHONY: help demo example test test-full coverage lint format lock wheel sql clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: $(DEMO_READY) ## run the quickstart on an embedded PostgreSQL
	@$(BIN)/python examples/quickstart.py

example: $(DEMO_READY) ## run an example, such as make example NAME=segments
	@test -f "examples/$(NAME).py" || { \
	  echo "NAME must be one of $(EXAMPLES), such as make example NAME=segments"; exit 2; }
	@$(BIN)/python "examples/$(NAME).py"

test: $(DEV_READY) ## run all tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-full: $(DEV_READY) ## run all tests with more rounds, and the benchmarks in full size
	@AUDIENCELAB_FORK_ROUNDS=30 $(BIN)/python -m pytest $(PYTEST_ARGS)
	@for name in backend database direct_access enrichment migrations rest sdk; do \
	  $(BIN)/python tests/benchmarks/$$name.py || exit; done

coverage: $(DEV_READY) ## fail unless the unit tests cover every branch of the client
	@$(BIN)/python -m coverage run -m pytest tests/unit $(PYTEST_ARGS)
	@$(BIN)/python -m coverage report

lint: $(DEV_READY) ## ruff, mypy, pyright and squawk
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pyright
	$(BIN)/squawk supabase/migrations/*.sql

format: $(DEV_READY) ## format the Python code
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# Does not need DEV_READY, which fails while the lock file contradicts pyproject.toml.
lock: .venv/bin/python ## upgrade the pinned versions of all development tools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK) uv
	@$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --custom-compile-command 'make lock' --output-file $(LOCK) $(LOCK_ARGS) pyproject.toml

wheel: $(DEV_READY) ## build the wheel into dist/
	@$(BIN)/python -m build --wheel

sql: $(DEV_READY) ## write the SQL that is generated from the migrations and the inventory
	@$(BIN)/python -m tests.database.update_staging
	@$(BIN)/python -m tests.database.update_verify
	@$(BIN)/python -m tests.database.update_pgtap

clean: ## delete everything that the other targets create
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": use make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv

$(DEMO_READY): .venv/bin/python pyproject.toml
	@echo "Installing the SDK and its embedded stack into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local,progress]'
	@touch $@

$(DEV_READY): .venv/bin/python pyproject.toml $(LOCK)
	@echo "Installing the SDK and its development tools into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint $(LOCK) --editable '.[dev]'
	@touch $@
