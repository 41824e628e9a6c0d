# make demo: from nothing to guided digits.  make test: the whole suite.  make check: format, lint, types.
# make docs: the site, into site/.  make bench: speed, beside naive JAX and PyTorch, which it installs, and other libraries.
# make demo PYTHON=python3.12: with another interpreter. The first one is installed into .venv, and is the one of every later
# call; PYTHON of another version is installed beside it, for example into .venv-3.13.
PYTHON ?= $(or $(wildcard .venv/bin/python),python3)
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := $(if $(filter-out $(call version,$(PYTHON)),$(call version,.venv/bin/python)),.venv-$(call version,$(PYTHON)),.venv)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo bench test test-slow check format docs clean

demo: $(INSTALLED)
	@$(BIN)/guided-jax demo

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[bench]' || echo "PyTorch could not be installed and is left out"
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.speed.peers

# The site, into site/: site/index.html opens without a server, only its search needs one (python3 -m http.server -d site).
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --durations=15

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, for example: make demo PYTHON=python3.12")'
	@echo "installing into $(VENV): about a minute, once"
	@start=$$(date +%s); \
	{ test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && \
	$(BIN)/python -m pip install --quiet --upgrade pip && \
	$(BIN)/python -m pip install --quiet -e '.[dev]' && \
	touch $(INSTALLED) && \
	echo "installed into $(VENV) in $$(( $$(date +%s) - start )) s"

clean:
	rm -rf .venv .venv-* build dist site *.egg-info
