"""ichat's adapters: one backend for each engine, behind one contract (base_backend.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichat.backends.base_backend import BaseBackend
    from ichat.config.schema import BackendName


def load_backend(name: BackendName) -> type[BaseBackend]:
    """The class of a backend. Importing it does not import the engine: that takes long, and ``run()`` does it."""
    if name == "vllm":
        from ichat.backends.vllm_backend import VLLMBackend

        return VLLMBackend
    if name == "sglang":
        from ichat.backends.sglang_backend import SGLangBackend

        return SGLangBackend
    from ichat.backends.fake_backend import FakeBackend

    return FakeBackend
