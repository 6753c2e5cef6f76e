# Two commands: `make train` and `make test`. Each makes .venv from the lock file first.
PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
WORKERS ?= 2
ARGS ?=

.PHONY: train train-ppo train-cee train-npm train-fcdl train-dlpa train-adrl train-ccrl test test-slow setup lint typecheck bench notebook lock wheel clean

train: setup              ## PPO, NPM and CEE on the maze, ends with runs/maze-n6/report.html
	$(BIN)/python -m experiments.cee demo $(ARGS)

train-ppo train-npm: train-%: setup  ## one method on the maze
	$(BIN)/causal-jax train --preset maze-$* --resume $(ARGS)

train-cee: setup          ## CEE on MiniGrid's UnlockPickup, ends with runs/minigrid-unlockpickup-cee/report.html and policy.gif
	$(BIN)/python -m experiments.cee_minigrid demo $(ARGS)

train-fcdl: setup         ## FCDL and NCD on Chemical, ends with runs/chemical-fork/report.html, the graphs drawn per code
	$(BIN)/python -m experiments.fcdl demo $(ARGS)

train-dlpa: setup         ## DLPA on Platform, ends with runs/platform-dlpa-explored-cpu-demo/report.html and play.gif
	$(BIN)/python -m experiments.dlpa demo $(ARGS)

train-adrl: setup         ## DQN, DecQN and AD-DQN on the point mass with 9 levels a torque, ends with a report
	$(BIN)/python -m experiments.adrl demo $(ARGS)

train-ccrl: setup         ## learners in worlds that differ: alone, everyone, CCRL; ends with theta and who learns from whom
	$(BIN)/python -m experiments.ccrl demo $(ARGS)

test: setup               ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: setup          ## learning runs and fault storms
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

setup: .venv/.done        ## .venv with the locked dependencies and this package

.venv/.done: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "python = %d.%d: must be 3.11 or later (make PYTHON=...)" % v[:2])'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

typecheck: setup
	$(BIN)/mypy causal_jax

bench: setup              ## speed against peers, a results file per device
	$(BIN)/python -m experiments.benchmarks $(ARGS)

notebook: setup           ## run the notebooks from top to bottom
	$(BIN)/jupyter execute --inplace experiments/notebooks/*.ipynb

lock:                     ## upgrade: resolve pyproject.toml anew into requirements.lock
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install -q --disable-pip-version-check ".[dev]" "jax<0.10"
	.venv-lock/bin/python -m pip freeze --exclude causal_jax --exclude pip --exclude setuptools > requirements.lock
	rm -rf .venv-lock build causal_jax.egg-info

wheel: setup
	$(BIN)/python -m build -q --wheel

clean:
	rm -rf .venv .venv-lock build dist .cache .pytest_cache .mypy_cache .ruff_cache *.egg-info
