# Everything sets itself up: Python 3.11 or newer with pip and venv is all that is needed.
PYTHON ?= python3
VENV ?= .venv
BENCH ?= .venv-bench
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
S3_VENV = .venv-s3
S3_STAMP = $(S3_VENV)/.installed

.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("audit_middleware needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[example]' --group dev
	@touch $(STAMP)

demo: $(STAMP) ## run the example service, drive it, show its trail, verify it, tamper with it
	@$(BIN)/python -m example_app.demo

test: $(STAMP) ## run the tests (without the slow ones)
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m 'not slow'

test-all: $(STAMP) ## run all tests, also over older FastAPI and Starlette
	@$(BIN)/python -m pytest
	@$(BIN)/nox

$(S3_STAMP): tests/archives/s3-server.txt
	@test -x $(S3_VENV)/bin/python || $(PYTHON) -m venv $(S3_VENV)
	@echo "installing into $(S3_VENV) ..."
	@$(S3_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/archives/s3-server.txt
	@touch $(S3_STAMP)

s3-server: $(S3_STAMP) ## install the S3 server that the tests of archives need (200 MB); without it they are skipped

check: $(STAMP) lint types contracts policies test ## what CI runs

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

contracts: $(STAMP)
	@$(BIN)/lint-imports --no-logo

policies: $(STAMP)
	@$(BIN)/audit-middleware policy lint policies/billing.yaml --app example_app.app:app
	@$(BIN)/audit-middleware policy test policies/billing.yaml --coverage 100
	@$(BIN)/audit-middleware policy mutate policies/billing.yaml

$(BENCH)/.installed: pyproject.toml constraints.txt bench/requirements.txt
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	@echo "installing into $(BENCH) ..."
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[example]' --requirement bench/requirements.txt
	@touch $@

bench: $(BENCH)/.installed ## measure everything beside the peers (72 minutes at most, wants a quiet machine, wrk and 40 GB of disk)
	@$(BENCH)/bin/python -m bench $(BENCH_FLAGS)

bench-check: $(STAMP) ## fail where a ratio fell below its bound (under two minutes)
	@$(BIN)/python -m bench.check

constraints: ## write constraints.txt from the newest releases
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/pip install --quiet --upgrade pip
	@.venv-lock/bin/pip install --quiet --editable '.[example]' --group dev
	@.venv-lock/bin/pip freeze --exclude-editable > constraints.txt
	@rm -rf .venv-lock

clean: ## remove what make made
	@rm -rf $(VENV) $(S3_VENV) $(BENCH) .nox var build dist

.PHONY: help demo test test-all s3-server check lint types contracts policies bench bench-check constraints clean
