# Two commands: `make demo` runs the main job, `make test` the tests. Both make .venv on first use.
#   make demo MODEL=dla46_c CHECKPOINT=weights.pth.tar
PYTHON ?= python3
MODEL ?= dla60
CHECKPOINT ?=
WORKERS ?= 2
BIN := .venv/bin
# Each process takes whole files and computes in one thread: more threads than cores wait for one another.
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# what the oldest supported Paddle runs: it has no torch beside it
OLDEST := not torch and not heavy and not any_paddle
OLDEST_TIMM := $(shell sed -n 's/^ *timm>=\([0-9.]*\).*/\1/p' setup.cfg)
WITH_TIMM := against_timm variants models convert port port_commands layer_diff check_forward check_training recipes \
  transforms schedule mixing
# Paddle warns about a missing C++ compiler cache, which nothing here uses
export PYTHONWARNINGS := ignore:No ccache found

.PHONY: demo train-demo test test-heavy test-paddle26 test-timm-oldest docs release-check clean

demo: .venv/.complete
	@$(BIN)/python scripts/demo.py --model $(MODEL) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

# convert, evaluate, fine-tune, be killed and go on, export, predict; needs Debian's package dataset-fashion-mnist
train-demo: .venv/.complete
	@$(BIN)/python scripts/train_demo.py

test: .venv/.complete
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

# what is too large for every run, and the slow tests on the oldest Paddle
test-heavy: .venv/.complete .venv-paddle26/.complete
	$(BIN)/python -m pytest -m heavy
	OMP_NUM_THREADS=1 .venv-paddle26/bin/python -m pytest $(PARALLEL) -m "slow and $(OLDEST)"

# on the oldest supported Paddle: the tests that need no torch and that its version can fail
test-paddle26: .venv-paddle26/.complete
	OMP_NUM_THREADS=1 .venv-paddle26/bin/python -m pytest $(PARALLEL) -m "not slow and $(OLDEST)"

# on the oldest supported timm, in out/timm: what is compared with it
test-timm-oldest: .venv/.complete
	rm -rf out/timm && $(BIN)/pip install --no-deps --target out/timm timm==$(OLDEST_TIMM)
	PYTHONPATH=$(CURDIR)/out/timm OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m "torch and not heavy" \
	  $(WITH_TIMM:%=tests/test_%.py)

# the site, in out/site; a link that leads nowhere is an error
docs: .venv-docs/.complete
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

# the packages as a user installs them, in out/dist, and the examples run with them
release-check: .venv/.complete
	scripts/release_check.sh

.venv/.complete: setup.cfg pyproject.toml constraints.txt
	$(call venv,.venv)
	$(BIN)/pip install --constraint constraints.txt --editable ".[cpu,data,onnx,openvino,parquet,plots,train,torch,hub,demo,completion,notebooks,dev]"
	# loads converted files in a test; its own dependencies (OpenCV, Faiss, ...) are not needed for that
	$(BIN)/pip install --no-deps paddleclas==2.6.0
	@touch $@

.venv-paddle26/.complete: setup.cfg pyproject.toml constraints-paddle26.txt
	$(call venv,.venv-paddle26)
	.venv-paddle26/bin/pip install --constraint constraints-paddle26.txt --editable ".[cpu,data,plots,train,hub,completion,dev]"
	.venv-paddle26/bin/pip install --no-deps paddleclas==2.6.0
	@touch $@

.venv-docs/.complete: setup.cfg
	$(call venv,.venv-docs)
	.venv-docs/bin/pip install --editable ".[docs]"
	@touch $@

define venv
	@scripts/system_packages.sh $(PYTHON)
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

clean:
	rm -rf .venv .venv-paddle26 .venv-docs out
