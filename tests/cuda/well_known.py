"""Well-known models, by their `config.json` alone (written by hand from what their pages say), and what must be chosen."""

from pathlib import Path
from typing import NamedTuple

MODELS = Path(__file__).parent / "models"


class Model(NamedTuple):
    name: str
    architecture: str
    """The class that both engines build, or the two names, vLLM's first."""
    quantization: str = ""
    refused_by: dict[str, str] = {}  # noqa: RUF012  never changed
    """Engine → words of its refusal, where it cannot serve the model."""
    sglang_flags: str = ""
    """What a user must add there, so that it is served as what it is."""

    @property
    def path(self) -> Path:
        return MODELS / self.name

    def architecture_of(self, engine: str) -> str:
        names = self.architecture.split("|")
        return names[-1] if engine == "sglang" else names[0]


WELL_KNOWN = (
    Model("llama-3.1-8b", "LlamaForCausalLM"),
    Model("llama-3.1-8b-fp8", "LlamaForCausalLM", "compressed-tensors"),
    Model("llama-3.1-8b-gptq", "LlamaForCausalLM", "gptq"),
    Model("llama-3.3-70b", "LlamaForCausalLM"),
    Model("llama-4-scout", "Llama4ForConditionalGeneration"),
    Model("qwen3-8b", "Qwen3ForCausalLM"),
    Model("qwen3-30b-a3b-fp8", "Qwen3MoeForCausalLM", "fp8"),
    Model("qwen2.5-7b-awq", "Qwen2ForCausalLM", "awq"),
    Model("qwen2.5-vl-7b", "Qwen2_5_VLForConditionalGeneration"),
    Model("qwen3-vl-8b", "Qwen3VLForConditionalGeneration"),
    Model("deepseek-v3", "DeepseekV3ForCausalLM", "fp8"),
    Model("deepseek-r1-distill-qwen-7b", "Qwen2ForCausalLM"),
    Model("gpt-oss-20b", "GptOssForCausalLM", "mxfp4"),
    Model("gpt-oss-120b", "GptOssForCausalLM", "mxfp4"),
    Model("gemma-3-12b", "Gemma3ForConditionalGeneration"),
    Model("mistral-7b", "MistralForCausalLM"),
    Model("mistral-small-24b", "MistralForCausalLM"),
    Model("mixtral-8x7b", "MixtralForCausalLM"),
    Model("phi-4", "Phi3ForCausalLM"),
    Model("glm-4.5-air", "Glm4MoeForCausalLM"),
    Model("whisper-large-v3", "WhisperForConditionalGeneration"),
    Model("bge-large-en", "BertEmbeddingModel|BertModel"),
    Model("bge-reranker-v2-m3", "RobertaForSequenceClassification|XLMRobertaForSequenceClassification"),
    Model("qwen3-embedding-0.6b", "Qwen3ForCausalLM"),
    Model("kimi-k2", "DeepseekV3ForCausalLM", "fp8"),
)
