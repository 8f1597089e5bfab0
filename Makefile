# Two commands do everything: `make demo` and `make test`. Each makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-simulators learn bench docs lint clean

help:
	@echo "make demo    imagine held-out episodes of the six Meta-World tasks; writes outputs/demo (no simulator needed)"
	@echo "make test    all tests but those of the next two, with Meta-World as the only simulator"
	@echo "make test-simulators   the other simulators and Ray's examples; ManiSkill needs a Vulkan driver (.ci/run installs one)"
	@echo "make learn   whether agents learn toy worlds, with half the real steps by a world model from scratch; takes long"
	@echo "make bench   imagined steps a second beside a re-reading loop, the simulator and the roofline; replay"
	@echo "make docs    the documentation in site/, with warnings as errors (Python 3.11 or newer)"
	@echo "make lint    ruff and mypy alone"
	@echo "make clean   remove .venv, outputs and site"

demo: $(VENV)/.core
	$(BIN)/worldgym demo --out outputs/demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test-simulators: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope -m other_simulator

learn: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -s

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/bench_transformer.py
	$(BIN)/python tests/benchmarks/bench_imagination.py
	$(BIN)/python tests/benchmarks/bench_replay.py
	$(BIN)/python tests/benchmarks/bench_planning.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) outputs site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "worldgym needs Python 3.10 or newer; choose one with: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }

# torch first and by itself: by far the largest download, it then stays installed where a later step fails.
$(VENV)/.core: setup.cfg constraints.txt | $(BIN)/python
	@echo "installing worldgym into $(VENV) ..."
	$(INSTALL) torch
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "installing the test tools and simulators into $(VENV) ..."
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	@echo "installing what builds the documentation into $(VENV) ..."
	$(INSTALL) --editable '.[docs]'
	@touch $@
