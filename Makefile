# Two commands do everything on a fresh machine:  make demo   and   make test
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  ?= 2.13.0
CPU_WHEELS ?= https://download.pytorch.org/whl/cpu

# What the kernels are tested by; where PCGEN_KERNELS is set, each law on fewer examples.
OP_TESTS := pcgen/ops $(patsubst %,tests/test_%.py,ops segments neighbours sampling annealed emd sinkhorn kernels)
SANITIZER := build/kernels_sanitized.so

.PHONY: demo test lint format cuda reference sanitize clean

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

# The definitions in plain PyTorch alone, as on a machine for which nothing was compiled.
reference: $(VENV)/.ready
	PCGEN_KERNELS=reference $(BIN)/python -m pytest $(OP_TESTS)

# The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer, with the widest registers of this machine.
sanitize: $(VENV)/.ready $(SANITIZER)
	ASAN_OPTIONS=detect_leaks=0 PCGEN_KERNELS=$(CURDIR)/$(SANITIZER) \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	    $(BIN)/python -m pytest -s $(OP_TESTS)

$(SANITIZER): $(wildcard cuda/*.cpp cuda/*.h)
	@mkdir -p $(@D)
	$(CXX) -O1 -g -std=c++17 -march=native -ffp-contract=off -fno-math-errno -fPIC -shared -pthread \
	    -fsanitize=address,undefined -fno-sanitize-recover=undefined $(filter %.cpp,$^) -o $@

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
