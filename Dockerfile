# ichat in one image: both engines, each in an environment of its own, behind one entrypoint.
#
#   make image                     for GPUs: ichat:latest
#   make image ACCELERATOR=cpu     without a GPU
#
# Built by BuildKit, from Docker 20.10 on; of images it needs only its base, a Debian or Ubuntu with Python 3.11 to 3.13.

ARG ACCELERATOR=cuda
# For GPUs: what the NVIDIA Container Toolkit looks for, and no CUDA: the engines bring all that they were built with.
ARG CUDA_BASE=nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1
# Without: the distribution that the tests of the image run on.
ARG CPU_BASE=debian:bookworm-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
# Any other Debian or Ubuntu instead of both.
ARG BASE_IMAGE=

# ---- base: what the distribution brings -----------------------------------------------------------------------
FROM ${CUDA_BASE} AS base-cuda
FROM ${CPU_BASE} AS base-cpu
FROM ${BASE_IMAGE:-base-${ACCELERATOR}} AS base
ARG ACCELERATOR
RUN --mount=type=bind,source=docker/inputs,target=/mnt/docker/inputs \
    --mount=type=bind,source=docker/install-packages,target=/mnt/docker/install-packages \
    --mount=type=bind,source=docker/packages.txt,target=/mnt/docker/packages.txt \
    --mount=type=cache,id=ichat-apt-cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=ichat-apt-lists,target=/var/lib/apt/lists,sharing=locked \
    /mnt/docker/install-packages "${ACCELERATOR}"
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
ARG ACCELERATOR
ARG ENGINES="vllm sglang"
# The pinned version of an engine without a word; docs/engines.md lists the others.
ARG VLLM=
ARG SGLANG=
ARG EXTRAS=
RUN --mount=type=bind,source=docker/inputs,target=/mnt/docker/inputs \
    --mount=type=bind,source=docker/fill-environments,target=/mnt/docker/fill-environments \
    --mount=type=bind,source=docker/slim.py,target=/mnt/docker/slim.py \
    --mount=type=cache,id=ichat-environments,target=/var/cache/ichat,sharing=locked \
    VLLM="${VLLM}" SGLANG="${SGLANG}" EXTRAS="${EXTRAS}" \
        /mnt/docker/fill-environments "${ACCELERATOR}" ${ENGINES} && \
    cd /opt/ichat && /mnt/docker/slim.py ${ENGINES}

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

# Kernels for GPUs that are named, since a build has none: PREFETCH="sm_90 sm_100".
ARG PREFETCH=
RUN --mount=type=bind,source=docker/inputs,target=/mnt/docker/inputs \
    --mount=type=bind,source=docker/prefetch,target=/mnt/docker/prefetch \
    [ -z "${PREFETCH}" ] || /mnt/docker/prefetch ${PREFETCH}

# What a model runs on unless it says otherwise; `auto` would take a container without its GPU for one on the CPU.
ARG ACCELERATOR
# Of an image with one engine: that engine. Empty counts as not set.
ARG DEFAULT_BACKEND=
ENV ICHAT_DEFAULTS__ACCELERATOR=${ACCELERATOR} ICHAT_DEFAULTS__BACKEND=${DEFAULT_BACKEND}

ARG ICHAT_VERSION=0.1.0
ARG VLLM_VERSION=0.32.0
ARG SGLANG_VERSION=0.5.21
ARG ENGINES="vllm sglang"
ARG EXTRAS=
ARG REVISION=unknown
ARG CREATED=
ARG SOURCE=
ARG LICENSES=
ARG BASE_NAME=
ARG BASE_DIGEST=
LABEL org.opencontainers.image.title="ichat" \
      org.opencontainers.image.description="Serves any Hugging Face model on vLLM or SGLang behind one OpenAI-compatible port" \
      org.opencontainers.image.version="${ICHAT_VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="${LICENSES}" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      ichat.accelerator="${ACCELERATOR}" \
      ichat.engines="${ENGINES}" \
      ichat.extras="${EXTRAS}" \
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
