PYTHON ?= python3
BIN := .venv/bin

LOWEST := .venv-lowest

.PHONY: train app test test-lowest check format clean

train: .venv/installed  ## train, test and use a model on the synthetic demo corpus
	$(BIN)/python run_train.py recipes/demo.json

app: .venv/installed  ## open the page on the demo model, trained first if it is not there
	test -e outputs/demo/model || $(MAKE) train
	$(BIN)/python app.py outputs/demo/model

test: .venv/installed  ## run the test suite
	$(BIN)/python -m pytest

test-lowest:  ## run the tests with the lowest versions that pyproject.toml allows, but for torch
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt torch
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[demo,dev]"
	$(LOWEST)/bin/python -m pytest $(TESTS)

check: .venv/installed  ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(LOWEST) outputs data

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[app,demo,dev,onnx]"
	touch $@
