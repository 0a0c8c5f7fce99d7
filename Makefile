# For everybody: `make course`, `make lab` and `make test`. Each makes the environment first.
# `make site` makes the pages; `make test` looks at them in a browser, where there is one.

# The first of these that is Python 3.11-3.13 and can make environments, the one people call python3 before others;
# `make PYTHON=... course` overrides.
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(FITS)' 2>/dev/null && command -v $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Eighteen thousand files: pip would compile them one after the other. Some are no Python of this version.
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
# What the pages need besides: Sphinx and its kin from PyPI, MathJax and axe-core from npm.
SITE := $(VENV)/.site
BROWSER := $(shell for p in chromium chromium-browser google-chrome; do command -v $$p && break; done)

.DEFAULT_GOAL := help
# Hundreds of processes import the package: it is compiled once.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help course lab test lint site clean

help:
	@echo "make course   install, fetch the models, run every notebook; the results are in runs/index.html"
	@echo "make lab      install, fetch the models, open the notebooks in JupyterLab"
	@echo "make test     check the code, the package and every notebook"
	@echo "make lint     only the style and the types of the code"
	@echo "make site     make the course's pages: build/site/index.html (needs npm)"
	@echo "make clean    remove the environment and all results (not the models)"

course: $(READY)
	$(BIN)/coursekit fetch
	$(BIN)/coursekit run

lab: $(READY)
	$(BIN)/coursekit fetch
	OMP_NUM_THREADS=$$($(BIN)/python -c 'from coursekit.batch import share; print(share.threads())') \
		$(BIN)/jupyter lab notebooks/

# Small models and short batches: two processes of one thread are faster than one of two.
# The outputs in the notebooks come from a CPU: on another device they need not agree to the last digit.
test: export OMP_NUM_THREADS = 1
test: $(READY) $(if $(and $(BROWSER),$(shell command -v npm)),$(SITE))
	$(BIN)/coursekit fetch
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --max-worker-restart 0
	DEVICE=cpu $(BIN)/python -m pytest -n 2 --max-worker-restart 0 --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout=1200 notebooks
	$(BIN)/coursekit run --force --jobs 2 --profile smoke --out runs/smoke
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then set -x; \
		$(BIN)/coursekit run --force --profile gpu --out runs/gpu; fi

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

site: $(SITE)
	$(BIN)/python -m sphinx -q -W --keep-going -j 2 -c docs . build/site
	@echo "build/site/index.html"

clean:
	rm -rf $(VENV) runs build dist docs/library docs/node_modules .pytest_cache .ruff_cache .mypy_cache .hypothesis

# Made anew when the dependencies change, and when an installation was cut short.
$(READY): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "The course needs Python 3.11, 3.12 or 3.13 with its venv module, and none is on the PATH." >&2; \
		echo "Install one (on Debian and Ubuntu with its -venv package), or: make PYTHON=/path/to/python course" >&2; \
		exit 1; fi
	@$(PYTHON) -c '$(FITS)' || { echo "$(PYTHON) is not Python 3.11-3.13 with venv." >&2; exit 1; }
	[ -x $(BIN)/python ] && $(BIN)/python -c '$(FITS)' || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --no-compile --editable '.[notebooks,test]'
	$(COMPILE)
	@touch $@

$(SITE): $(READY) docs/package-lock.json
	@command -v npm >/dev/null || { echo "The pages need npm (Node.js): on Debian and Ubuntu, apt-get install npm" >&2; exit 1; }
	$(BIN)/python -m pip install --no-compile --editable '.[site]'
	$(COMPILE)
	cd docs && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@
