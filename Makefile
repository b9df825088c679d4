# Two commands do everything on a fresh machine with Python 3.11 (or newer), pip and make:
#   make study   install, run Table 7 at quick scale on this CPU, say where the report is
#   make test    install, run the tests
# and one more compiles every GPU kernel, which needs no GPU: make kernels
# Variables: PYTHON (which Python makes the environment), VENV (where it is made), OUT, SEEDS.

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/table7-quick
SEEDS ?= 2
BIN := $(VENV)/bin

.PHONY: study test lint types kernels install clean
.DELETE_ON_ERROR:

study: $(VENV)/.installed
	$(BIN)/ssmlab study run table7 --scale quick --seeds $(SEEDS) --out $(OUT)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

kernels: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[gpu]' -c constraints.txt
	$(BIN)/python -m ssmlab.ops._cuda.check

install: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . -c constraints.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info
