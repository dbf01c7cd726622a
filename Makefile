# Python 3.11+, make and a C library are all that is needed: each target makes its own .venv from pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
DEMO_ARGS ?=
# Rooms whose tests start no server, export nothing of their own and need no program of .tools.
FAST := tests/embedship tests/monitor tests/test_structure.py tests/test_installs.py tests/test_sizing.py tests/tools/test_docs.py
TEST_ARGS ?=
# On Linux, PyPI's torch brings CUDA (2.2 GB); this index of PyTorch has torch for CPUs. Torch alone is asked for there:
# where the index cannot be reached, one package is soon given up, and pip takes torch from its usual indexes.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
export TORCH_INDEX

.PHONY: demo test check lint audit secrets requirements sbom bench assets chart docs clean

demo: $(VENV)/.installed  ## the whole product on a real model and real text; DEMO_ARGS=--once stops after a self-check
	$(BIN)/embedship demo $(DEMO_ARGS)

# Two workers on two cores have a thread each: more would spin against one another. A module
# stays with one worker, so that what its tests share is made once.
test: lint  ## lint, types and tests; TEST_ARGS goes to pytest
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder --ignore tests/embedship/commands/test_demo.py $(TEST_ARGS)
	$(BIN)/pytest tests/embedship/commands/test_demo.py  # alone: it needs both cores, and checks what a newcomer sees

check: lint  ## lint, types and the fast tests: under three minutes on two cores once a bundle is in .cache
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow" $(FAST) $(TEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p embedship

audit: $(VENV)/.installed  ## known vulnerabilities of the pinned packages, by pip-audit; it asks a database on the internet
	$(BIN)/python -P tools/scan.py packages

secrets: $(VENV)/.installed  ## keys and passwords in tracked files, by detect-secrets
	$(BIN)/python -P tools/scan.py secrets

requirements: $(VENV)/.installed  ## packages of the images with their sha256; EXTRAS=cpu,pull,milvus writes the file of other extras
	$(BIN)/python -P tools/requirements.py $(EXTRAS)

sbom: $(VENV)/.installed  ## bills of materials of the images (CycloneDX), in build/
	$(BIN)/python -P tools/sbom.py build

bench: $(VENV)/.installed  ## us and the peers in one run; peers live in their own venvs
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/coldstart.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/chart.py
	$(BIN)/python benchmarks/search.py

assets: $(VENV)/.installed  ## rules, dashboard and runbooks, from their description in monitor/assets
	$(BIN)/python -P -m embedship.monitor.assets.write monitor/assets/files

chart: $(VENV)/.installed  ## what the chart takes from elsewhere: settings, rules, dashboard, table of values
	$(BIN)/python -P tools/chart.py

docs: $(VENV)/.installed  ## the documentation site, in build/site; a dead link is an error
	$(BIN)/python -P tools/docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

# A regular install, not an editable one: mypy cannot see through an editable install, and tests run what users get.
$(VENV)/.installed: pyproject.toml constraints.txt $(shell find embedship export serve monitor -name '*.py' -o -path 'monitor/assets/*' -o -path 'serve/http/ui/*')
	@echo "embedship: installing the pinned set of constraints.txt into $(VENV) (first time: a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "embedship needs Python 3.11 or newer; set PYTHON=python3.x")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -rf build  # setuptools would pack what an earlier build left there, deleted modules too
	$(PIP) install --no-deps --retries 1 --constraint constraints.txt --extra-index-url $(TORCH_INDEX) torch
	$(PIP) install --constraint constraints.txt '.[test]'
	$(PIP) install --force-reinstall --no-deps .
	@rm -rf build
	@touch $@

clean:
	rm -rf $(VENV) .venvs .demo build dist *.egg-info
