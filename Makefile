# Two commands do everything on a fresh machine:  make demo   and   make test
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  ?= 2.13.0
CPU_WHEELS ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test lint format cuda clean

demo: $(VENV)/.ready
	$(BIN)/pcgen train demo --out runs/demo --overwrite

test: $(VENV)/.ready
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every kernel source compiled for every architecture: needs neither a GPU nor a toolkit.
cuda: $(VENV)/.ready
	@if ls cuda/*.cu >/dev/null 2>&1; then $(BIN)/pip install -q nvidia-cuda-nvrtc==13.0.88 "cuda-bindings==13.*"; fi
	$(BIN)/python cuda/compile_all.py

clean:
	rm -rf $(VENV) build dist *.egg-info

# A plain `pip install torch` on Linux brings gigabytes of CUDA: without a GPU, ask for the CPU build by name,
# first from the configured index (a mirror may hold it), then from PyTorch's own, and only then for any build.
$(VENV)/.ready: pyproject.toml setup.py $(wildcard cuda/*.cpp cuda/*.h)
	$(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c "import torch" 2>/dev/null; then echo "torch is there already"; \
	elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then \
	    $(BIN)/pip install -q "torch>=2.4"; \
	else \
	    $(BIN)/pip install -q "torch==$(TORCH)+cpu" 2>/dev/null || \
	    $(BIN)/pip install -q --retries 1 --timeout 30 --index-url $(CPU_WHEELS) "torch==$(TORCH)" 2>/dev/null || \
	    $(BIN)/pip install -q "torch==$(TORCH)"; \
	fi
	$(BIN)/pip install -q -e ".[test]"
	@touch $@
