# `make run` serves the embedded demo model, `make test` runs every test there is; each first sets up what it needs.
.DEFAULT_GOAL := help
.PHONY: help setup run test check cuda-check release-check fmt lint type bench gpu-proof image image-size sbom provenance audit flags locks bump clean
MAKEFLAGS += --no-print-directory

BACKEND ?= vllm
ENGINES ?= vllm sglang
PORT ?= $(or $(ICHAT_PORT),8000)
MODEL ?=
ARGS ?=
export ACCELERATOR ENGINES EXTRAS BASE_IMAGE IMAGE PREFETCH VLLM SGLANG

IN_DEV := .venvs/dev/bin
BUILT_IMAGE = $(or $(IMAGE),$(if $(filter cpu,$(ACCELERATOR)),ichat:cpu,ichat:latest))
# The quick tests first: what they find explains what the slow ones would find.
TESTS := $(wildcard $(addprefix tests/,unit contract faults engines))
TESTS += $(filter-out $(TESTS) tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  BACKEND=vllm|sglang  MODEL=path or Hugging Face name  PORT=8000  ARGS='any flag of ichat serve'   for run"
	@echo "  ENGINES='vllm sglang'  ACCELERATOR=auto|cpu|cuda  EXTRAS='nixl mooncake lmcache deep-ep'         for setup"
	@echo "  ENGINES='vllm sglang'  ACCELERATOR=cuda|cpu  EXTRAS=…  PREFETCH='sm_90 …'  BASE_IMAGE=…  IMAGE=…   for image"
	@echo "  MODEL=…  IMAGE=ichat:latest  ACCELERATOR=cpu (a rehearsal without a GPU)                         for gpu-proof"
	@echo "  VLLM=…  SGLANG=…        other versions than the pinned ones (docs/engines.md)                   for setup, image, bump"
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

release-check: ## Look for what may wait until a release: the demo model's weights are those of its questions
	@scripts/setup --quiet dev
	@ICHAT_RELEASE_CHECK=1 $(IN_DEV)/python -m pytest tests/unit/test_demo_model.py

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

gpu-proof: ## Prove on a GPU, within ten minutes, that all of it works there
	@MODEL='$(MODEL)' scripts/gpu-proof $(ARGS)

image: ## Build the container image (ACCELERATOR=cpu: without a GPU)
	@scripts/image $(ARGS)

image-size: ## Tell how much of the image both engines share: its size with either engine and with both
	@scripts/image-size

sbom: ## Write what is in IMAGE, with licences and hashes, to build/sbom.json (CycloneDX)
	@scripts/setup --quiet dev
	@$(IN_DEV)/python scripts/sbom.py '$(BUILT_IMAGE)'

provenance: ## Write what IMAGE was made of to build/provenance.json (in-toto, SLSA; not signed)
	@scripts/setup --quiet dev
	@$(IN_DEV)/python scripts/provenance.py '$(BUILT_IMAGE)'

audit: ## Look up known flaws of the Python packages of the image (ARGS=build/sbom.json: of that image)
	@scripts/setup --quiet dev
	@$(IN_DEV)/python scripts/audit.py $(ARGS)

flags: ## Write the engines' flags anew, from their own parsers
	@scripts/setup --quiet vllm sglang $(notdir $(wildcard .venvs/*-[0-9]*))
	@.venvs/vllm/bin/python -m ichat.backends.flags.generate --pinned
	@.venvs/sglang/bin/python -m ichat.backends.flags.generate --pinned
	@for python in .venvs/*-[0-9]*/bin/python; do VLLM_TARGET_DEVICE=cpu $$python -m ichat.backends.flags.generate; done

locks: ## Resolve requirements/ anew into the lock files (ARGS=--upgrade for newer versions)
	@scripts/setup --locks $(ARGS)

bump: ## Say which versions of the engines there are; take one: make bump SGLANG=0.5.23
	@scripts/bump $(if $(VLLM),vllm=$(VLLM)) $(if $(SGLANG),sglang=$(SGLANG))

clean: ## Remove what was set up or built here; downloads stay in uv's cache
	rm -rf .venvs .tools .run build docker/inputs/ca.crt docker/inputs/pip.conf docker/inputs/wheels .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
