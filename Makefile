# Everything happens in a virtual environment in .venv; the two commands to know are
# `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# `make bench FORM=` runs the full form, for hours where a network is slow.
FORM ?= --short
PEERS ?= peers
BENCHMARKS := startup decimated large_scene memory efficiency precision workers training_data

.PHONY: demo test test-slow lint bench clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/cloudmask sample demo/scene.tif --size 2000 3000 --overwrite
	$(BIN)/cloudmask segment demo/scene.tif demo/mask.tif --quicklook demo/picture.png --overwrite
	$(BIN)/cloudmask evaluate demo/mask.tif demo/scene_label.tif
	@echo "mask: demo/mask.tif   picture: demo/picture.png"

test: $(VENV)/installed-dev
	$(BIN)/pytest -m "not slow" --numprocesses auto --dist worksteal

test-slow: $(VENV)/installed-dev
	$(BIN)/pytest -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Scenes are made in the folder bench, and stay; `sh benchmarks/peers_env.sh peers` makes the peers.
bench: $(VENV)/installed
	for name in $(BENCHMARKS); do \
	    $(BIN)/python benchmarks/$$name.py bench $(FORM) || exit 1; \
	done
	$(BIN)/python benchmarks/peers.py bench $(FORM) --peers $(PEERS)
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) demo bench peers

# Debian splits venv from python3; as root we can add it, others are told.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	|| { echo "$(PYTHON) is not 3.11 to 3.13, or does not run: make … PYTHON=python3.12, for instance"; exit 1; }
	$(PYTHON) -m venv $(VENV) 2>/dev/null \
	|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv \
	     && $(PYTHON) -m venv --clear $(VENV); } \
	|| { echo "no virtual environment could be made: apt install python3-venv, then again"; \
	     rm -rf $(VENV); exit 1; }

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --editable ".[dev]"
	touch $@
