# make demo    install, distil, evaluate, serve, ask
# make test    install, and run every test
# make lint    formatting, lint, types
# make bench   every benchmark
# make lock    compile the pinned versions again

SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
UV := $(BIN)/uv
# pip's folders of wheels are uv's too; where there are none, the CPU build of torch comes from its own index.
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
else
TORCH_BACKEND := --torch-backend cpu
endif

# Two at a time, in the order that tests/conftest.py gives; plain `pytest` runs them one after another. A process that
# dies ends the run with the name of its test: xdist would start another, and then wait for ever for what the dead one held.
SIDE_BY_SIDE := -n 2 --dist loadgroup --no-loadscope-reorder --max-worker-restart 0

.PHONY: install demo test test-fast lint format bench lock clean
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): requirements/cpu.txt requirements/overrides-cpu.txt pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) is not installed: stillhouse needs Python 3.11 (set PYTHON=... if it has another name)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode $(TORCH_BACKEND) -r requirements/cpu.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/movie_reviews/demo.py

test: $(INSTALLED)
	$(BIN)/pytest $(SIDE_BY_SIDE)

test-fast: $(INSTALLED)
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	for file in $$(grep -l __main__ benchmarks/*.py); do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

lock: $(INSTALLED)
	$(UV) pip compile --quiet --upgrade --no-annotate --no-header --no-emit-find-links $(TORCH_BACKEND) --python-version 3.11 \
	  --overrides requirements/overrides-cpu.txt --extra cpu --extra demo --extra dev pyproject.toml -o requirements/cpu.txt
	UV_FIND_LINKS= $(UV) pip compile --quiet --upgrade --no-annotate --no-header --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --overrides requirements/overrides-cuda.txt --extra cuda pyproject.toml -o requirements/cuda.txt

clean:
	rm -rf $(VENV) runs
