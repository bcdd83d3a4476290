"""Whether an engine may ask the Hugging Face hub: decided before it is imported, when the hub's library reads it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Literal

from ichat.backends import hub_cache
from ichat.backends.engine_argv import is_local, own_dests
from ichat.backends.engines import ARGS
from ichat.config.schema import Model

log = logging.getLogger(__name__)

ENDPOINT = "https://huggingface.co"
#: Name resolution included, which knows no limit of its own.
_LIMIT_S = 5.0
#: Who sets one of these has decided: the hub's own switch, that of transformers, and other hubs.
_DECIDED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_USE_MODELSCOPE", "SGLANG_USE_MODELSCOPE")


async def choose(
    subject: str, model: Model, accelerator: Literal["cpu", "cuda"], environ: MutableMapping[str, str]
) -> None:
    """Add HF_HUB_OFFLINE to the environment where the hub is not needed, or cannot be reached and everything is here.

    A model that is not whole here is left to the engine, which says why it cannot be fetched.
    """
    if model.backend not in ARGS or any(environ.get(name) for name in _DECIDED):
        return
    is_here = is_local(model)
    if is_here and not _asks_anyway(model, accelerator):
        environ["HF_HUB_OFFLINE"] = "1"
        return
    # Reading headers of weights may take a while on a network disk, and nothing else happens meanwhile.
    if not is_here and not hub_cache.is_whole(model, environ):
        return
    if (wrong := await unreachable(environ)) is None:
        return
    environ.update(_offline(model, accelerator, environ))
    where = "is a directory" if is_here else f"is whole in {hub_cache.cache_dir(environ)}"
    log.warning("%s: the hub cannot be reached (%s); the model %s, so it starts without", subject, wrong, where)


def _asks_anyway(model: Model, accelerator: Literal["cpu", "cuda"]) -> bool:
    """Whether an engine may want something of the hub though the model is a directory."""
    args = ARGS[model.backend]
    return bool(
        model.trust_remote_code  # its code may be in another repository
        or args.hub_kernels(model, accelerator)
        or own_dests(args.engine(), model) & args.FURTHER_MODELS
    )


def _offline(model: Model, accelerator: Literal["cpu", "cuda"], environ: Mapping[str, str]) -> dict[str, str]:
    """Kernels that are in the cache have to be shown: the package that fetches them asks the hub even then."""
    cache = Path(environ["KERNELS_CACHE"]) if environ.get("KERNELS_CACHE") else hub_cache.cache_dir(environ)
    wanted = ARGS[model.backend].hub_kernels(model, accelerator)
    found = {kernel.repo: hub_cache.snapshot(cache, kernel.repo, kernel.revision, "kernel") for kernel in wanted}
    shown = ":".join(f"{repo}={path}" for repo, path in found.items() if path is not None)
    return {"HF_HUB_OFFLINE": "1"} | ({"LOCAL_KERNELS": shown} if shown and "LOCAL_KERNELS" not in environ else {})


async def unreachable(environ: Mapping[str, str], limit_s: float = _LIMIT_S) -> str | None:
    """Why the hub does not answer; None: it does."""
    url = environ.get("HF_ENDPOINT") or ENDPOINT
    command = (sys.executable, "-P", "-m", "ichat.backends.hub_probe", url)
    probe = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(limit_s):
            words, _ = await probe.communicate()
    except TimeoutError:
        return f"{url}: no answer within {limit_s:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            probe.kill()
        await probe.wait()
    return None if probe.returncode == 0 else f"{url}: {words.decode(errors='replace')}"
