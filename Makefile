# Everything a checkout needs. `make demo` and `make test` work on a fresh machine and install what they use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Errors alone: warnings and notices of the installer are about its own ways.
SILENT := --disable-pip-version-check -qq

.PHONY: install demo test bench lint docs clean

$(VENV)/installed: pyproject.toml
	@echo "installing into $(VENV): some minutes, and 5 GB where torch comes with CUDA"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(SILENT) --upgrade pip
	$(BIN)/python -m pip install $(SILENT) --editable '.[dev]'
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/python -m autolink_apps.demo

test: install
	$(BIN)/python -m pytest

bench: install
	$(BIN)/python benchmarks/run.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict  # no word about what follows on mkdocs

clean:
	rm -rf $(VENV) build dist demo *.egg-info
