.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/demo.ready ## Set everything up and serve three demo tenants
	@exec $(BIN)/metrics-service demo $(ARGS)

test: $(VENV)/test.ready ## Set everything up and run the whole test suite
	@exec $(BIN)/python -m pytest -n $${TEST_PROCESSES:-2} --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/test.ready ## Style, types and import contracts
	@scripts/check.sh $(BIN)

lock: ## Pin the dependencies of pyproject.toml again (needs uv)
	@scripts/lock.sh

clean: ## Remove what was built; the data in .metrics-service/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
	find src tests scripts alembic -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo.ready: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the service needs ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.ready: requirements-dev.lock $(VENV)/demo.ready
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: help demo test check lock clean
