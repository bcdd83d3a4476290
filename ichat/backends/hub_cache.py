"""The cache of the Hugging Face hub: where it is, and whether a model is whole in it, so that no network is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ichat.config.preflight import TOKENIZERS, Check
from ichat.config.schema import Model


def cache_dir(environ: Mapping[str, str]) -> Path:
    """As the hub's own library finds it."""
    if named := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    home = Path(environ.get("HOME") or "/")
    base = environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(environ.get("HF_HOME") or Path(base) / "huggingface").expanduser() / "hub"


def snapshot(cache: Path, repo: str, revision: str | None, kind: str = "model") -> Path | None:
    """The directory of one revision of a repository (a branch, a tag, a commit), if there is one."""
    root = cache / f"{kind}s--{repo.replace('/', '--')}"
    revision = revision or "main"
    try:
        commit = (root / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    path = root / "snapshots" / commit
    return path if path.is_dir() else None


def files_of(model: Model, environ: Mapping[str, str]) -> Path | None:
    """The directory that the model's files are in: its own, or a snapshot in a cache; None: they are not found."""
    local = Path(model.model_path).expanduser()
    if local.is_dir():
        return local
    caches = [Path(model.download_dir)] if model.download_dir else []
    found = (snapshot(cache, model.model_path, model.revision) for cache in [*caches, cache_dir(environ)])
    return next((path for path in found if path is not None), None)


def is_whole(model: Model, environ: Mapping[str, str]) -> bool:
    """Whether all that the model takes from the hub is in the cache, as far as its files tell."""
    return not list(missing(model, environ))


def missing(model: Model, environ: Mapping[str, str]) -> Iterator[str]:
    """What is not in the cache, or damaged there, in words; nothing for a model that is a directory."""
    cache = cache_dir(environ)
    if not model.model_path.startswith("/"):
        yield from _of_model(model, cache)
    if model.tokenizer_path and not model.tokenizer_path.startswith("/"):
        yield from _lacks(cache, model.tokenizer_path, None, TOKENIZERS)
    for text in model.lora_paths or ():
        path = text.partition("=")[2]
        if not path.startswith("/"):
            yield from _lacks(cache, path, None, ("adapter_config.json",))


def _of_model(model: Model, cache: Path) -> Iterator[str]:
    if model.download_dir and Path(model.download_dir) != cache:
        # The weights are there, the rest is in the hub's cache: without network neither engine finds both.
        yield f"{model.model_path}: download_dir is not the cache of the hub"
    elif (found := snapshot(cache, model.model_path, model.revision)) is None:
        yield f"{model.model_path}: not in {cache}"
    else:
        check = Check(model.model_copy(update={"model_path": str(found), "lora_paths": None, "chat_template": None}))
        check.run()
        yield from (problem.message for problem in check.problems)


def _lacks(cache: Path, repo: str, revision: str | None, patterns: tuple[str, ...]) -> Iterator[str]:
    found = snapshot(cache, repo, revision)
    if found is None or not any(next(found.glob(pattern), None) for pattern in patterns):
        yield f"{repo}: not in {cache}"
