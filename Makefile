# `make run` serves the embedded demo model, `make test` runs every test there is; each first sets up what it needs.
.DEFAULT_GOAL := help
.PHONY: help setup run test check cuda-check fmt lint type bench image image-size sbom flags locks bump clean
MAKEFLAGS += --no-print-directory

BACKEND ?= vllm
ENGINES ?= vllm sglang
PORT ?= $(or $(ICHAT_PORT),8000)
MODEL ?=
ARGS ?=
export ACCELERATOR ENGINES BASE_IMAGE IMAGE

IN_DEV := .venvs/dev/bin
# The quick tests first: what they find explains what the slow ones would find.
TESTS := $(wildcard $(addprefix tests/,unit contract faults engines))
TESTS += $(filter-out $(TESTS) tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  BACKEND=vllm|sglang  MODEL=path or Hugging Face name  PORT=8000  ARGS='any flag of ichat serve'   for run"
	@echo "  ENGINES='vllm sglang'  ACCELERATOR=auto|cpu|cuda                                                for setup"
	@echo "  ENGINES='vllm sglang'  ACCELERATOR=cuda|cpu  BASE_IMAGE=…  IMAGE=ichat:latest                     for image"
	@echo "  ARGS='any flag of pytest'                                                                       for test"

setup: ## Set up the Python environments under .venvs (ENGINES=vllm for one engine only)
	@scripts/setup ichat $(ENGINES) dev

run: ## Set up what BACKEND needs and serve MODEL (the demo model) on PORT
	@scripts/setup --quiet ichat $(BACKEND)
	@exec ./entrypoint serve --backend $(BACKEND) --port $(PORT) $(if $(MODEL),--model-path '$(MODEL)') $(ARGS)

test: ## Set up everything and run every test there is
	@scripts/setup --quiet
	@$(IN_DEV)/python -m pytest $(TESTS) $(ARGS)

check: ## Lint, types, layers, unit tests and the contract on the fake engine: about three minutes
	@scripts/setup --quiet dev
	@$(MAKE) lint type
	@$(IN_DEV)/python -m pytest -m "not engine and not volume" $(wildcard tests/unit tests/contract)

cuda-check: ## Check the CUDA environments of the image without a GPU, and write the record that CI trusts
	@scripts/setup --quiet ichat vllm sglang dev
	@ICHAT_TEST_FULL=1 $(IN_DEV)/python -m pytest tests/cuda $(ARGS)

fmt: ## Format the code and mend what the linter can mend
	@scripts/setup --quiet dev
	@$(IN_DEV)/ruff format .
	@$(IN_DEV)/ruff check --fix .

lint: ## Look for what STYLE forbids: ruff, and who may import whom
	@scripts/setup --quiet dev
	@$(IN_DEV)/ruff check .
	@$(IN_DEV)/ruff format --check .
	@$(IN_DEV)/lint-imports

type: ## Check the types
	@scripts/setup --quiet dev
	@$(IN_DEV)/mypy

bench: ## Compare with the engines' own servers (ARGS is passed on)
	@scripts/setup --quiet
	@$(IN_DEV)/python -m benchmarks $(ARGS)

image: ## Build the container image (ACCELERATOR=cpu: without a GPU)
	@scripts/image $(ARGS)

image-size: ## Tell how much of the image both engines share: its size with either engine and with both
	@scripts/image-size

sbom: ## Write what is in IMAGE to build/sbom.json (CycloneDX)
	@scripts/setup --quiet dev
	@$(IN_DEV)/python scripts/sbom.py '$(or $(IMAGE),$(if $(filter cpu,$(ACCELERATOR)),ichat:cpu,ichat:latest))'

flags: ## Write the engines' flags anew, from their own parsers
	@scripts/setup --quiet vllm sglang
	@.venvs/vllm/bin/python -m ichat.backends.flags.generate
	@.venvs/sglang/bin/python -m ichat.backends.flags.generate

locks: ## Resolve requirements/ anew into the lock files (ARGS=--upgrade for newer versions)
	@scripts/setup --locks $(ARGS)

bump: ## Move to other versions of the engines: make bump VLLM=0.33.0 SGLANG=0.5.22
	@scripts/bump $(if $(VLLM),vllm=$(VLLM)) $(if $(SGLANG),sglang=$(SGLANG))

clean: ## Remove what was set up or built here; downloads stay in uv's cache
	rm -rf .venvs .tools .run build docker/inputs/ca.crt docker/inputs/pip.conf docker/inputs/wheels .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
