# Every target sets up what it needs in .venv, once; a second run costs what its work costs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock'

.PHONY: serve test lint types lock audit sbom bench bench-peers bench-accuracy clean

serve: $(VENV)/.$(RUNTIME)
	$(BIN)/imago serve

# Two files at a time: more would take the cores from tests that watch what is late.
test: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.private $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.dev
	$(BIN)/mypy

# The newest versions that pyproject.toml allows, for every Python and platform: what serves with the digest of each file,
# everything else by its version.
lock: $(VENV)/.supply
	echo 'setuptools>=80' | $(COMPILE) --generate-hashes --output-file requirements/build.txt -
	$(COMPILE) --generate-hashes --extra cpu --output-file requirements/cpu.txt pyproject.toml
	$(COMPILE) --generate-hashes --extra gpu --output-file requirements/gpu.txt pyproject.toml
	$(COMPILE) --no-annotate --extra train --extra private --extra test --extra bench --extra supply --extra sign --extra dev \
		--constraint requirements/build.txt --constraint requirements/cpu.txt \
		--output-file requirements/constraints.txt pyproject.toml

# Known vulnerabilities of what serves; .ci/audit ends with 3 where nobody can be asked.
audit: $(VENV)/.supply
	.ci/audit $(BIN)/pip-audit requirements/cpu.txt requirements/gpu.txt

# A bill of materials (CycloneDX) of what serves.
sbom: $(VENV)/.supply
	@mkdir -p build
	for runtime in cpu gpu; do $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-file build/sbom-$$runtime.cdx.json requirements/$$runtime.txt || exit; done

# imago beside the limit of the machine and a plain FastAPI server, in five minutes.
bench: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.bench
	$(BIN)/python -m benchmarks.quick

# Beside its peers, each in an environment of its own: an hour and a half. ARGS are those of benchmarks.compare.
bench-peers: $(VENV)/.$(RUNTIME) $(VENV)/.train $(VENV)/.bench
	$(BIN)/python -m benchmarks.compare $(ARGS)
	$(BIN)/python -m benchmarks.report

# Accuracy through HTTP; DATA is the folder of data sets.
bench-accuracy: $(VENV)/.$(RUNTIME) $(VENV)/.train
	@test -n "$(DATA)" || { echo "make bench-accuracy DATA=FOLDER, which holds the data sets, each in a folder of its own"; exit 2; }
	$(BIN)/python -m benchmarks.accuracy --data $(DATA)

clean:
	rm -rf $(VENV) build *.egg-info

# Wheels are built without an environment of their own, which would be filled with whatever is newest.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --requirement requirements/build.txt

# What serves, byte for byte what the lock says.
$(VENV)/.$(RUNTIME): requirements/$(RUNTIME).txt pyproject.toml | $(VENV)/bin/python
	$(PIP) --require-hashes --requirement $<
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# A stamp for each extra that is installed; pyproject.toml decides when it is out of date.
$(VENV)/.%: pyproject.toml requirements/constraints.txt | $(VENV)/bin/python
	$(PIP) --no-build-isolation --constraint requirements/constraints.txt --editable '.[$*]'
	@touch $@
