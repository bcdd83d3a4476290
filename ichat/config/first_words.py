"""Commands of the engines' own images, told as ichat's: what people type who come from them."""

from __future__ import annotations

from collections.abc import Sequence

from ichat.errors import UsageError

_PYTHONS = ("python", "python3")
#: Modules that serve, as the engines' documents start them; and the engine.
_SERVERS = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "sglang.launch_server": "sglang",
}


def as_ichat(argv: Sequence[str]) -> list[str]:
    """The command line in ichat's words; one that is so already comes back as it is.

    ``vllm serve ORG/NAME …``, ``sglang serve …``, ``python3 -m sglang.launch_server …``, ``serve ORG/NAME …`` and
    ``ORG/NAME …``. UsageError where an engine is named with another command than ``serve``.
    """
    words = list(argv)
    if words[:1] and words[0] in ("vllm", "sglang"):
        if words[1:2] != ["serve"]:
            told = " ".join(words[:2])
            raise UsageError(f"{told}: ichat serves, and has no other command of {words[0]}. Use `{words[0]} serve …`.")
        return _serve(["--backend", words[0]], words[2:])
    if words[:1] and words[0] in _PYTHONS and words[1:2] == ["-m"] and words[2:3] and words[2] in _SERVERS:
        return _serve(["--backend", _SERVERS[words[2]]], words[3:])
    if words[:1] and words[0] in ("serve", "config", "warm"):
        return _serve([], words[1:], words[0])
    if words[:1] and "/" in words[0] and not words[0].startswith("-"):
        return _serve([], words)
    return words


def _serve(said: list[str], rest: list[str], command: str = "serve") -> list[str]:
    """A first word that is no flag is the model."""
    is_model = bool(rest) and not rest[0].startswith("-")
    return [command, *said, *(["--model-path"] if is_model else []), *rest]
