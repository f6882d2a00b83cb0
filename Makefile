# `make help` lists the targets. Programs are run as `.venv/bin/python -m …`, never by their scripts in .venv/bin:
# the first line of those breaks in folders with long paths or spaces.

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-print-directory

VENV_PYTHON := .venv/bin/python
# Make .venv or bring it up to date; instant when the locks have not changed.
PREPARE = python=$$(scripts/find-python.sh) && "$$python" scripts/venv.py

# From the command line only: a variable HOST is set in many shells.
ifeq ($(origin PORT), command line)
export ZENGLOW_PORT := $(PORT)
endif
ifeq ($(origin HOST), command line)
export ZENGLOW_HOST := $(HOST)
endif
ifeq ($(origin DATA_DIR), command line)
export ZENGLOW_DATA_DIR := $(DATA_DIR)
endif

.PHONY: help
help: ## List the targets
	@echo 'ZenGlow. Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

.PHONY: run
run: ## Start everything on http://127.0.0.1:8000; options: PORT=8123 HOST=0.0.0.0 DATA_DIR=/somewhere
	@$(PREPARE) base && exec $(VENV_PYTHON) manage.py serve

.PHONY: check
check: ## Lint, types, imports, deployment checks, migrations and all tests
	@$(PREPARE) dev && exec $(VENV_PYTHON) scripts/check.py

.PHONY: coverage
coverage: ## As check, and say how much of the code the tests run (coverage.xml)
	@$(PREPARE) dev && exec $(VENV_PYTHON) scripts/check.py --coverage

.PHONY: bench
bench: ## Measure speed and quality on this machine
	@$(PREPARE) dev && exec $(VENV_PYTHON) -m bench

.PHONY: venv
venv: ## Make .venv with what running needs; option: PYTHON=/path/to/python3.12
	@$(PREPARE) base

.PHONY: dev-setup
dev-setup: ## Make .venv with what development needs, and install the git hooks
	@$(PREPARE) dev
	@$(VENV_PYTHON) -m pre_commit install

.PHONY: freeze
freeze: ## Lock the requirements again; option: UPGRADE=1 for the newest versions
	@$(PREPARE) dev && exec $(VENV_PYTHON) scripts/freeze.py $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove caches and .venv; data in var/ stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov coverage.xml .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
