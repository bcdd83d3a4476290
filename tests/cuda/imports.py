"""Every module that the engines import on their usual paths on a GPU, with the place that looks for it and what it serves.

Derived from the engines' sources: each `import`, `find_spec`, `import_module` and `_has_module` of another package, less
what is for other hardware (`aiter`, `flydsl`, `sgl_kernel_npu` …), for tests and benchmarks, for the extras of the image
(`nixl`, `mooncake`, `lmcache`) and what the locks do not bring (SGLang's `cv2`, `av`, `decord`, `fastsafetensors`, `nvtx`).
An engine often takes a failed import for "not installed" and serves on, slower or not at all: so each is imported for itself
here, in a process of its own.
"""

from typing import NamedTuple


class Import(NamedTuple):
    module: str
    looked_for_in: str
    """A file of the engine; a test holds that it names the module."""
    serves: str
    needs_device: str = ""
    """The words with which it fails where there is no GPU, and only there."""
    after: str = ""
    """What the engine runs before, where the module is not found otherwise."""


_NO_DEVICE = "does not expose a usable CUDA device"
_NO_ENCODER = "libnvidia-encode.so"  # a part of the driver

VLLM = (
    Import("vllm._C_stable_libtorch", "platforms/cuda.py", "vLLM's own kernels"),
    Import("vllm._moe_C_stable_libtorch", "platforms/cuda.py", "vLLM's own kernels for experts"),
    Import("vllm._flashmla_C", "v1/attention/ops/flashmla.py", "MLA attention on Hopper (DeepSeek, Kimi)"),
    Import("vllm._flashmla_extension_C", "v1/attention/ops/flashmla.py", "the same, sparse"),
    Import("vllm._qutlass_C", "platforms/cuda.py", "fp4 linear layers"),
    Import("vllm._deepselect_C", "model_executor/layers/indexer_topk.py", "the indexer of sparse attention"),
    Import("vllm._flashkda_C", "models/kimi_k3/nvidia/kda.py", "Kimi's linear attention"),
    Import("vllm.cumem_allocator", "device_allocator/cumem.py", "sleep mode"),
    Import("vllm.fs_io_C", "v1/kv_offload/tiering/fs/io.py", "a KV cache on disk"),
    Import("vllm.spinloop", "distributed/device_communicators/shm_broadcast.py", "messages between workers"),
    Import("vllm.vllm_flash_attn", "v1/attention/backends/fa_utils.py", "FlashAttention 2 and 3"),
    Import("vllm.vllm_flash_attn._vllm_fa2_C", "vllm_flash_attn/flash_attn_interface.py", "FlashAttention 2 (sm_80)"),
    Import("vllm.vllm_flash_attn._vllm_fa3_C", "vllm_flash_attn/flash_attn_interface.py", "FlashAttention 3 (sm_90)"),
    Import(
        "vllm.vllm_flash_attn.cute.interface", "vllm_flash_attn/flash_attn_interface.py", "FlashAttention 4 (sm_100)"
    ),
    Import("vllm.third_party.deep_gemm", "utils/import_utils.py", "fp8 matrices on Hopper and Blackwell"),
    Import("vllm.third_party.flashmla.flash_mla_interface", "v1/attention/ops/flashmla.py", "MLA attention"),
    Import(
        "triton_kernels.matmul_ogs",
        "utils/import_utils.py",
        "mxfp4 experts of gpt-oss",
        after="import vllm.utils.import_utils as u; u.import_triton_kernels()",
    ),
    Import("flashinfer", "utils/flashinfer.py", "attention, experts, and the sampler by default"),
    Import("flashinfer.sampling", "v1/sample/ops/topk_topp_sampler.py", "the sampler"),
    Import("flashinfer.comm", "utils/flashinfer.py", "sums over several GPUs"),
    Import("flashinfer.fused_moe", "utils/flashinfer.py", "experts"),
    Import("flashinfer.prefill", "v1/attention/backends/mla/prefill/trtllm_ragged.py", "attention"),
    Import("flashinfer.decode", "v1/attention/backends/flashinfer.py", "attention"),
    Import("cutlass", "utils/flashinfer.py", "kernels written in CuTe DSL"),
    Import("cutlass.cute", "cute_utils/cvt.py", "kernels written in CuTe DSL"),
    Import("cuda.bindings.driver", "v1/simple_kv_offload/cuda_mem_ops.py", "KV offload, CuTe DSL"),
    Import(
        "cuda.bindings.runtime",
        "model_executor/layers/minimax_rms_norm/lamport_workspace.py",
        "sums over several GPUs",
    ),
    Import("cudnn", "utils/flashinfer.py", "attention of vision towers"),
    Import("triton", "triton_utils/importing.py", "Triton kernels"),
    Import("tilelang", "tilelang_utils/__init__.py", "sparse attention, mixed residuals"),
    Import("tvm_ffi", "third_party/tml_fa4/cache_utils.py", "kernels compiled ahead"),
    Import("humming", "utils/humming.py", "weights quantised in unusual widths"),
    Import("quack", "vllm_flash_attn/cute/mask.py", "what FlashAttention 4 calls"),
    Import("tokenspeed_mla", "v1/attention/backends/mla/tokenspeed_mla.py", "MLA attention on Blackwell"),
    Import("nccl.m2n", "distributed/weight_transfer/m2n_common.py", "new weights from a trainer"),
    Import("xgrammar", "v1/structured_output/backend_xgrammar.py", "structured answers"),
    Import("llguidance.hf", "v1/structured_output/backend_guidance.py", "structured answers"),
    Import("outlines_core", "v1/structured_output/backend_outlines.py", "structured answers"),
    Import("lmformatenforcer", "v1/structured_output/backend_lm_format_enforcer.py", "structured answers"),
    Import("compressed_tensors", "model_executor/layers/quantization/compressed_tensors/utils.py", "quantised weights"),
    Import("torchvision", "transformers_utils/processors/internvl.py", "images"),
    Import("torchaudio", "multimodal/audio.py", "audio"),
    Import("torchcodec.decoders", "multimodal/media/audio.py", "audio and video; loads FFmpeg"),
    Import("cv2", "multimodal/video_decoders/opencv.py", "video"),
    Import("av", "multimodal/media/audio.py", "audio"),
    Import("soundfile", "multimodal/media/audio.py", "audio"),
    Import("soxr", "multimodal/audio.py", "audio"),
    Import("scipy", "multimodal/audio.py", "audio"),
    Import("PyNvVideoCodec", "multimodal/video_decoders/pynvvideocodec.py", "video on the GPU", _NO_ENCODER),
    Import("timm", "model_executor/models/deepseek_vl2.py", "vision towers"),
    Import("numba", "v1/spec_decode/ngram_proposer.py", "n-gram speculation"),
    Import("fastsafetensors", "model_executor/model_loader/weight_utils.py", "loading weights"),
    Import("instanttensor", "model_executor/model_loader/weight_utils.py", "loading weights"),
    Import("runai_model_streamer", "transformers_utils/runai_utils.py", "weights from S3, GCS, Azure"),
    Import("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "tracing/otel.py", "traces"),
    Import("opentelemetry.exporter.otlp.proto.http.trace_exporter", "tracing/otel.py", "traces"),
    Import("mistral_common", "tokenizers/mistral.py", "Mistral's own tokenizer"),
    Import("openai_harmony", "parser/harmony.py", "gpt-oss's answers"),
    Import("nvtx", "v1/utils.py", "marks for a profiler"),
)

SGLANG = (
    Import("sgl_kernel", "srt/layers/sampler.py", "SGLang's own kernels"),
    Import("sgl_kernel.flash_attn", "kernels/ops/attention/flash_attention_v3.py", "FlashAttention 3 (sm_80, sm_90)"),
    Import("sgl_kernel.flash_mla", "srt/layers/attention/flashmla_backend.py", "MLA attention on Hopper"),
    Import("kernels", "kernels/ops/attention/flash_attention_v3.py", "FlashAttention 3 from the hub"),
    Import("flash_attn.cute", "kernels/ops/attention/flash_attention_v4.py", "FlashAttention 4 (sm_100)"),
    Import("flash_attn.cute.interface", "srt/layers/attention/qwen_sparse_attn_backend.py", "FlashAttention 4"),
    Import("deep_gemm", "kernels/jit/utils/deps.py", "fp8 matrices on Hopper and Blackwell"),
    Import("deep_ep", "srt/layers/moe/token_dispatcher/deepep.py", "experts over several GPUs", _NO_DEVICE),
    Import("flashinfer", "srt/utils/common.py", "attention, experts, sampler"),
    Import("flashinfer.sampling", "srt/layers/sampler.py", "the sampler"),
    Import("flashinfer.comm", "srt/layers/flashinfer_comm_fusion.py", "sums over several GPUs"),
    Import("flashinfer.fused_moe", "srt/layers/moe/moe_runner/flashinfer_trtllm.py", "experts"),
    Import("flashinfer.decode", "srt/layers/attention/trtllm_mha_backend.py", "attention"),
    Import("cutlass", "kernels/jit/utils/deps.py", "kernels written in CuTe DSL"),
    Import("cutlass.cute", "kernels/jit/cute_aot_cache.py", "kernels written in CuTe DSL"),
    Import("cuda.bindings.driver", "srt/utils/cuda_vmm_utils.py", "memory over several GPUs, CuTe DSL"),
    Import("cuda.bindings.runtime", "srt/utils/common.py", "CUDA graphs"),
    Import("cudnn", "srt/layers/quantization/fp4_utils.py", "fp4 linear layers"),
    Import("pynvml", "srt/utils/common.py", "which GPU it is"),
    Import("triton", "srt/utils/common.py", "Triton kernels"),
    Import("triton_kernels.matmul", "srt/layers/quantization/mxfp4.py", "mxfp4 experts of gpt-oss"),
    Import("tilelang", "kernels/ops/layernorm/mhc.py", "sparse attention, mixed residuals"),
    Import("tvm_ffi", "kernels/jit/utils/common.py", "kernels compiled at run time"),
    Import("nvidia.mathdx", "kernels/jit/utils/deps.py", "kernels compiled at run time"),
    Import("humming", "srt/layers/quantization/humming_utils.py", "weights quantised in unusual widths"),
    Import("quack", "kernels/ops/attention/flash_attn/cute/mask.py", "what FlashAttention 4 calls"),
    Import("tokenspeed_mla", "srt/layers/attention/tokenspeed_mla_backend.py", "MLA attention on Blackwell"),
    Import("torch_memory_saver", "srt/utils/torch_memory_saver_adapter.py", "sleep and wake"),
    Import("xgrammar", "srt/constrained/xgrammar_backend.py", "structured answers"),
    Import("llguidance.hf", "srt/constrained/llguidance_backend.py", "structured answers"),
    Import("outlines", "srt/constrained/outlines_backend.py", "structured answers"),
    Import("compressed_tensors", "srt/configs/model_config.py", "quantised weights"),
    Import("bitsandbytes", "srt/model_loader/loader.py", "quantised weights"),
    Import("gguf", "srt/layers/quantization/gguf.py", "quantised weights"),
    Import("accelerate", "srt/model_loader/loader.py", "models that transformers loads"),
    Import("torchvision", "srt/multimodal/processors/glm4v.py", "images"),
    Import("torchaudio", "srt/multimodal/processors/mimo_audio.py", "audio"),
    Import("torchcodec.decoders", "srt/utils/video_decoder.py", "video; loads FFmpeg"),
    Import("soundfile", "srt/utils/common.py", "audio"),
    Import("timm", "srt/models/deepseek_vl2.py", "vision towers"),
    Import("runai_model_streamer", "srt/utils/runai_utils.py", "weights from S3, GCS, Azure"),
    Import("modelscope", "srt/model_loader/loader.py", "weights from ModelScope"),
    Import("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "srt/observability/trace.py", "traces"),
    Import("mistral_common", "srt/entrypoints/openai/serving_chat.py", "Mistral's own tokenizer"),
    Import("openai_harmony", "srt/entrypoints/harmony_utils.py", "gpt-oss's answers"),
)

IMPORTS = {"vllm": VLLM, "sglang": SGLANG}
