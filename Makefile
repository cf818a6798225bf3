# Two commands: `make demo` runs the main job, `make test` the tests. Both make .venv on first use.
#   make demo MODEL=dla46_c CHECKPOINT=weights.pth.tar
PYTHON ?= python3
MODEL ?= dla60
CHECKPOINT ?=
BIN := .venv/bin
# Paddle warns about a missing C++ compiler cache, which nothing here uses
export PYTHONWARNINGS := ignore:No ccache found

.PHONY: demo train-demo test test-heavy test-paddle26 clean

demo: .venv/.complete
	@$(BIN)/python scripts/demo.py --model $(MODEL) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

# convert, evaluate, fine-tune, be killed and go on, export, predict; needs Debian's package dataset-fashion-mnist
train-demo: .venv/.complete
	@$(BIN)/python scripts/train_demo.py

test: .venv/.complete
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

# what is too large for every run
test-heavy: .venv/.complete
	$(BIN)/python -m pytest -m heavy

# the tests that need no torch, on the oldest supported Paddle
test-paddle26: .venv-paddle26/.complete
	.venv-paddle26/bin/python -m pytest -m "not torch and not heavy"

.venv/.complete: setup.cfg pyproject.toml constraints.txt
	$(call venv,.venv)
	$(BIN)/pip install --constraint constraints.txt --editable ".[cpu,data,onnx,parquet,plots,train,torch,hub,demo,completion,dev]"
	# loads converted files in a test; its own dependencies (OpenCV, Faiss, ...) are not needed for that
	$(BIN)/pip install --no-deps paddleclas==2.6.0
	@touch $@

.venv-paddle26/.complete: setup.cfg pyproject.toml constraints-paddle26.txt
	$(call venv,.venv-paddle26)
	.venv-paddle26/bin/pip install --constraint constraints-paddle26.txt --editable ".[cpu,data,plots,train,hub,completion,dev]"
	.venv-paddle26/bin/pip install --no-deps paddleclas==2.6.0
	@touch $@

define venv
	@scripts/system_packages.sh $(PYTHON)
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

clean:
	rm -rf .venv .venv-paddle26 out
