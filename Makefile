# All it takes is Python 3.11 or later, with its venv module. `make help` says what there is.

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-warn-script-location
POSTGRES := 13 14 15 16 17 18
LOCK := $(VENV)/bin/uv pip compile --quiet --universal --python-version=3.11 \
    --generate-hashes $(UPGRADE) --output-file=requirements

.PHONY: help demo test test-all test-wheel soak check coverage bench docs site dist lock clean

help:  ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s%s\n", $$1, $$2}' Makefile

demo: $(VENV)/demo  ## Take the tour: PostgreSQL, NATS and pgoutbox, from nothing to events and a snapshot
	@$(PYTHON) -m pgoutbox demo

test: lint  ## Run every check and every test, on servers that the tests start themselves
	$(PYTHON) -m tools.majors --jobs 2 13 16
	$(PYTHON) -m pytest --numprocesses 2 --dist loadfile

test-all: lint $(VENV)/deploy $(VENV)/migrations  ## Run every test on PostgreSQL 13 to 18, or on POSTGRES=15 alone (needs npm)
	$(PYTHON) -m tools.majors $(POSTGRES) --strict --long --tests tests
	$(PYTHON) -m pytest tests/sql --publish-outbox --wal-level replica
	$(PYTHON) -m pytest tests/sql --publish-outbox --wal-level logical
	PGOUTBOX_TEST_EVENT_LOOP=asyncio $(PYTHON) -m pytest --long tests/faults

coverage: export COVERAGE_PROCESS_START = $(CURDIR)/pyproject.toml
coverage: lint  ## Measure coverage in the commands that tests start, too (half as long again)
	$(PYTHON) -m pytest --cov --cov-report term:skip-covered --cov-report html

DURATION := 600

soak: $(VENV)/dev  ## All faults at random: make soak DURATION=600 SEED=7 (seconds for each of three set-ups)
	$(if $(SEED),PGOUTBOX_TEST_SEED=$(SEED)) $(PYTHON) -m pytest tests/soak -s --soak $(DURATION)

check: lint  ## Run what needs no server: lint, types, import contracts, unit tests
	$(PYTHON) -m pytest tests/unit

bench: $(VENV)/dev  ## Measure throughput, latency, and what a write costs; QUICK=1 takes minutes, not hours
	$(PYTHON) -m benchmarks $(if $(QUICK),--scale 0.03 --runs 1)

docs: $(VENV)/dev  ## Write what the documents repeat: commands, settings, metrics, figures
	$(PYTHON) -m tools.documents

site: $(VENV)/docs  ## Build the documentation site in build/site; warnings are errors
	$(PYTHON) -m sphinx -W --keep-going -q docs build/site

dist: $(VENV)/dev  ## Build the source distribution, and from that the wheel, in dist/
	rm -rf dist
	$(PYTHON) -m build --no-isolation

test-wheel: $(VENV)/dev  ## Test the wheel in dist/, in a folder that has none of the sources
	rm -rf build/wheel && mkdir -p build/wheel
	@$(PIP) --no-deps --target build/wheel/site dist/*.whl
	cp -r README.md docs examples tests tools benchmarks pyproject.toml build/wheel
	cd build/wheel && PYTHONPATH=$(CURDIR)/build/wheel/site $(abspath $(PYTHON)) -m pytest \
	    tests/conformance tests/integration tests/packaging/test_readme.py

lock: $(VENV)/dev  ## Write requirements/ anew; UPGRADE=--upgrade takes the newest versions
	$(LOCK)/build.txt requirements/build.in
	$(LOCK)/dev.txt --constraints=requirements/build.txt --group=dev --all-extras pyproject.toml
	$(LOCK)/demo.txt --constraints=requirements/dev.txt --extra=demo pyproject.toml
	$(LOCK)/deploy.txt --constraints=requirements/dev.txt --group=pyproject.toml:deploy
	$(LOCK)/docs.txt --constraints=requirements/dev.txt --group=pyproject.toml:docs
	$(LOCK)/image.txt --constraints=requirements/dev.txt \
	    --extra=metrics --extra=nkeys --extra=sentry --extra=uvloop pyproject.toml

clean:  ## Remove the virtual environment and all caches
	rm -rf $(VENV) .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache \
	    build dist htmlcov

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

$(VENV)/demo: $(VENV)/python pyproject.toml requirements/build.txt requirements/demo.txt
	@echo 'Installing pgoutbox and its demo servers into $(VENV) (takes a minute) ...'
	@$(PIP) --require-hashes --requirement requirements/build.txt
	@$(PIP) --require-hashes --requirement requirements/demo.txt
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/dev: $(VENV)/demo requirements/dev.txt
	@echo 'Installing the development tools into $(VENV) (takes a minute) ...'
	@$(PIP) --no-build-isolation --require-hashes --requirement requirements/dev.txt
	@touch $@

$(VENV)/docs: $(VENV)/dev requirements/docs.txt
	@echo 'Installing Sphinx into $(VENV) ...'
	@$(PIP) --require-hashes --requirement requirements/docs.txt
	@touch $@

$(VENV)/deploy: $(VENV)/dev requirements/deploy.txt
	@echo 'Installing helm, the nats CLI and the schemas of Kubernetes into $(VENV) (takes some minutes) ...'
	@$(PIP) --require-hashes --requirement requirements/deploy.txt
	@GOBIN=$(abspath $(VENV)/bin) go install helm.sh/helm/v3/cmd/helm@v3.18.4 \
	    || echo 'helm needs Go to be built; tests of the chart will be skipped.'
	@GOBIN=$(abspath $(VENV)/older) go install github.com/nats-io/nats-server/v2@v2.10.29 \
	    && mv $(VENV)/older/nats-server $(VENV)/bin/nats-server-2.10 \
	    || echo 'nats-server 2.10 needs Go to be built; the test of its upgrade will be skipped.'
	@GOBIN=$(abspath $(VENV)/bin) go install github.com/nats-io/natscli/nats@v0.5.1 \
	    || echo 'The nats CLI needs Go to be built; its test will be skipped.'
	@touch $@

# What can't be fetched is left out, and its tests are skipped; Maven fetches when they run it.
$(VENV)/migrations: $(VENV)/dev $(wildcard requirements/migrations/*)
	@echo 'Fetching migration tools into $(VENV) (takes some minutes) ...'
	@mkdir -p $@ && cp requirements/migrations/*.json $@
	@npm ci --silent --no-audit --no-fund --prefix $@ \
	    || echo 'Tools from npm are missing; their tests will be skipped.'
	@cd requirements/migrations && CGO_ENABLED=0 GOBIN=$(abspath $(VENV)/bin) go install -tags=postgres tool \
	    || echo 'Tools built by Go are missing; their tests will be skipped.'
	@touch $@
