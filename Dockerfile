# ichat in one image: both engines, each in an environment of its own, behind one entrypoint.
#
#   make image                     for GPUs: ichat:latest
#   make image ACCELERATOR=cpu     without a GPU
#
# Built by BuildKit, from Docker 20.10 on; of images it needs only its base, a Debian or Ubuntu with Python 3.11 to 3.13.

# CUDA 13.0 runtime on Ubuntu 24.04: the CUDA that both engines' packages are built for.
ARG BASE_IMAGE=nvidia/cuda:13.0.3-runtime-ubuntu24.04@sha256:76f46f3e649824ebd3685d3d86c42b0ea62af04f59242f419f56cd5804a72efb

# ---- base: what the distribution brings -----------------------------------------------------------------------
FROM ${BASE_IMAGE} AS base
# A compiler and Python's headers: Triton and torch.inductor compile what they generate. nvcc comes with the engines.
RUN --mount=type=bind,source=docker/inputs,target=/mnt/docker/inputs \
    --mount=type=bind,source=docker/install-packages,target=/mnt/docker/install-packages \
    --mount=type=cache,id=ichat-apt-cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=ichat-apt-lists,target=/var/lib/apt/lists,sharing=locked \
    /mnt/docker/install-packages \
        ca-certificates curl g++ gcc libc6-dev libgomp1 libnuma1 python3 python3-dev python3-venv tini
ENV LANG=C.UTF-8

# ---- environments: ichat's own, then the engines' -------------------------------------------------------------
# Of the checkout only what they are made from: a change in ichat/ leaves these layers alone.
FROM base AS ichat
WORKDIR /opt/ichat/app
COPY scripts/setup scripts/setup
COPY scripts/environments scripts/environments
COPY requirements requirements
RUN --mount=type=bind,source=docker/inputs,target=/mnt/docker/inputs \
    --mount=type=bind,source=docker/fill-environments,target=/mnt/docker/fill-environments \
    --mount=type=cache,id=ichat-environments,target=/var/cache/ichat,sharing=locked \
    /mnt/docker/fill-environments cpu ichat

# Both engines in one step: a file that is in both is stored once only within one layer (docs/decisions.md).
FROM ichat AS engines
ARG ACCELERATOR=cuda
ARG ENGINES="vllm sglang"
# The pinned version of an engine without a word; docs/engines.md lists the others.
ARG VLLM_VERSION=
ARG SGLANG_VERSION=
RUN --mount=type=bind,source=docker/inputs,target=/mnt/docker/inputs \
    --mount=type=bind,source=docker/fill-environments,target=/mnt/docker/fill-environments \
    --mount=type=cache,id=ichat-environments,target=/var/cache/ichat,sharing=locked \
    VLLM=${VLLM_VERSION} SGLANG=${SGLANG_VERSION} /mnt/docker/fill-environments "${ACCELERATOR}" ${ENGINES}

# ---- source: the checkout, as it is installed -----------------------------------------------------------------
FROM base AS source
COPY entrypoint /opt/ichat/app/
COPY ichat /opt/ichat/app/ichat
COPY configs /opt/ichat/app/configs
COPY models/demo /opt/ichat/app/models/demo
RUN --mount=type=bind,source=docker/arrange,target=/mnt/arrange /mnt/arrange /opt/ichat

# ---- final ----------------------------------------------------------------------------------------------------
FROM engines AS final
COPY --from=source /opt/ichat /opt/ichat
COPY --from=source /rootfs /

# Everything that is kept between two starts is under /cache. HOME, too: any uid may run this, without a passwd entry.
ENV PATH=/opt/ichat/bin:${PATH} \
    HOME=/cache USER=ichat LOGNAME=ichat \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm VLLM_CONFIG_ROOT=/cache/vllm/config \
    TRITON_CACHE_DIR=/cache/triton TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    FLASHINFER_WORKSPACE_BASE=/cache/flashinfer \
    DG_JIT_CACHE_DIR=/cache/deep_gemm SGLANG_DG_CACHE_DIR=/cache/deep_gemm \
    TILELANG_CACHE_DIR=/cache/tilelang CUDA_CACHE_PATH=/cache/nv

# The engines bring the CUDA they were built with: an older one in the base must not go before it. Where a cloud mounts
# the driver here (GKE), it is found.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64

# What a model runs on unless it says otherwise; `auto` would take a container without its GPU for one on the CPU.
ARG ACCELERATOR=cuda
# Of an image with one engine: that engine. Empty counts as not set.
ARG DEFAULT_BACKEND=
ENV ICHAT_DEFAULTS__ACCELERATOR=${ACCELERATOR} ICHAT_DEFAULTS__BACKEND=${DEFAULT_BACKEND}

ARG ICHAT_VERSION=0.1.0
ARG VLLM_VERSION=0.32.0
ARG SGLANG_VERSION=0.5.21
ARG ENGINES="vllm sglang"
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ichat" \
      org.opencontainers.image.description="Serves any Hugging Face model on vLLM or SGLang behind one OpenAI-compatible port" \
      org.opencontainers.image.version="${ICHAT_VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      ichat.accelerator="${ACCELERATOR}" \
      ichat.engines="${ENGINES}" \
      ichat.vllm.version="${VLLM_VERSION}" \
      ichat.sglang.version="${SGLANG_VERSION}"

WORKDIR /opt/ichat/app
VOLUME /cache
EXPOSE 8000
USER 10001:0
STOPSIGNAL SIGTERM
# One probe costs some 10 ms of CPU, so the interval is short enough to serve as the start interval too, which older
# builders do not know. One red answer is enough: `ichat health` speaks of the engine, not of a slow network.
HEALTHCHECK --interval=5s --timeout=4s --start-period=1800s --retries=1 CMD ["/opt/ichat/app/entrypoint", "health"]
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/opt/ichat/app/entrypoint"]
