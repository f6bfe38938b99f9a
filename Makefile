PYTHON ?= python3
BIN := .venv/bin

LOWEST := .venv-lowest
SHIPPED := modeling_whisper_ser whisper_ser metrics app.py push_to_hub.py run_train.py

.PHONY: train app test test-lowest reliability check metric format clean

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
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[app,demo,dev]"
	$(LOWEST)/bin/python -m pytest $(TESTS)

reliability: .venv/installed  ## try to break it: faults, fuzz, kills, soak and scale, in under half an hour
	$(BIN)/python -m pytest --thorough -m "" tests/reliability

check: .venv/installed  ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(SHIPPED)

metric: .venv/installed  ## copy whisper_ser/evaluation/metrics.py to metrics/ser_metrics, without what it imports from the package
	$(BIN)/python metrics/build.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(LOWEST) outputs data

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[app,demo,dev]"
	touch $@
