PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check
.DEFAULT_GOAL := run

run: .venv/installed  ## run the main job: the rsicap study, at the scale this machine bears
	$(BIN)/python -m hpo.run --study rsicap

test: .venv/installed  ## pass the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: .venv/installed  ## lint, type-check, and check the files of docker/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hpo needs Python 3.11 or later: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
