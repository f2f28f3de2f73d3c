# All it takes is Python 3.11 or later, with its venv module. `make help` says what there is.

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-warn-script-location

.PHONY: help demo test test-matrix check bench docs clean

help:  ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s%s\n", $$1, $$2}' Makefile

demo: $(VENV)/demo  ## Take the tour: PostgreSQL, NATS and pgoutbox, from nothing to eight events
	@$(PYTHON) -m pgoutbox demo

test: lint  ## Run every check and every test, on servers that the tests start themselves
	$(PYTHON) -m tools.majors 13 16
	$(PYTHON) -m pytest

test-matrix: lint  ## Compare with wal-listener, and test the SQL, on PostgreSQL 13 to 18 and published (needs npm)
	$(PYTHON) -m tools.majors 13 14 15 16 17 18 --strict --tests tests/conformance tests/sql
	$(PYTHON) -m pytest tests/sql --publish-outbox --wal-level replica
	$(PYTHON) -m pytest tests/sql --publish-outbox --wal-level logical

check: lint  ## Run what needs no server: lint, types, import contracts, unit tests
	$(PYTHON) -m pytest tests/unit

bench: $(VENV)/dev  ## Measure throughput, latency, and what a write costs
	$(PYTHON) -m benchmarks

docs: $(VENV)/dev  ## Write what the documents repeat: commands, settings, metrics, figures
	$(PYTHON) -m tools.documents

clean:  ## Remove the virtual environment and all caches
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist

.PHONY: lint
lint: $(VENV)/dev
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

$(VENV)/python: Makefile
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
	        2>/dev/null; then $$python -m venv --clear $(VENV) && touch $@ && exit; fi; \
	done; \
	echo 'pgoutbox needs Python 3.11 or later with its venv module, and found none.' >&2; exit 1

$(VENV)/demo: $(VENV)/python pyproject.toml
	@echo 'Installing pgoutbox and its demo servers into $(VENV) (takes a minute) ...'
	@$(PIP) --editable '.[demo]'
	@touch $@

# The group is read here, for pip knows groups only from version 25.1 on.
$(VENV)/dev: $(VENV)/demo
	@echo 'Installing the development tools into $(VENV) (takes a minute) ...'
	@$(PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
	    print(*project["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	@$(PIP) --requirement $(VENV)/dev.txt
	@touch $@
