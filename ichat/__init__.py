"""ichat serves language models on vLLM or SGLang behind one OpenAI-compatible port."""

__version__ = "0.1.0"
