# Every target sets up what it needs in .venv, once; a second run costs what its work costs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve test lint types bench bench-peers bench-accuracy clean

serve: $(VENV)/.$(RUNTIME)
	$(BIN)/imago serve

test: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.dev
	$(BIN)/mypy

# imago beside the limit of the machine and a plain FastAPI server, in five minutes.
bench: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.bench
	$(BIN)/python -m benchmarks.quick

# Beside its peers, each in an environment of its own: an hour and a half. ARGS are those of benchmarks.compare.
bench-peers: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.bench
	$(BIN)/python -m benchmarks.compare $(ARGS)
	$(BIN)/python -m benchmarks.report

# Accuracy through HTTP; DATA is the folder of data sets.
bench-accuracy: $(VENV)/.$(RUNTIME) $(VENV)/.train
	@test -n "$(DATA)" || { echo "make bench-accuracy DATA=FOLDER, the one that holds cifar10/ and camvid/"; exit 2; }
	$(BIN)/python -m benchmarks.accuracy --data $(DATA)

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp for each extra that is installed; pyproject.toml decides when it is out of date.
$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[$*]'
	@touch $@
