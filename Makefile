# make demo: from nothing to guided digits.  make test: the whole suite.  make check: format, lint, types.
# make bench: speed, beside naive JAX and PyTorch, which it installs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo bench test test-slow check format clean

demo: $(INSTALLED)
	$(BIN)/python -m benchmarks.digits

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[bench]' || echo "PyTorch could not be installed and is left out"
	$(BIN)/python -m benchmarks.speed

# The site, into site/: site/index.html opens without a server, only its search needs one (python3 -m http.server -d site).
.PHONY: docs
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
	@start=$$(date +%s); \
	$(PYTHON) -m venv .venv && \
	$(BIN)/python -m pip install --quiet --upgrade pip && \
	$(BIN)/python -m pip install --quiet -e '.[dev]' && \
	touch $(INSTALLED) && \
	echo "installed into .venv in $$(( $$(date +%s) - start )) s"

clean:
	rm -rf .venv build dist *.egg-info
