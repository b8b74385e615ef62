# `make quickstart`, `make test` and `make factotum-s` (the generalist, many hours, resumable) do all set-up themselves.
# CPU or CUDA: `make TORCH=torch==2.13.0+cu130 ...` takes another build of torch that your package index offers.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := babyai,metaworld,box2d,classic,atari,minatar,mujoco,digits,captions,report,optuna,tensorboard,schedulefree,gats,minilm,onnx,dev
export OMP_WAIT_POLICY := PASSIVE

.PHONY: quickstart factotum-s test lint setup clean

quickstart: setup
	$(BIN)/factotum quickstart

factotum-s: setup
	$(BIN)/factotum generalist runs/factotum-s --teachers $(wildcard checkpoints/atari/*-teacher checkpoints/minatar/*-teacher)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check factotum tests benchmarks examples
	$(BIN)/mypy

setup: $(VENV)/.installed

# torch first, so that a CPU build offered by pip's own configuration is taken
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
