"""What can be installed beside an engine on request: `EXTRAS="nixl lmcache"`. Pure, like recipes.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Extra:
    """One extra, locked for each engine in `requirements/locks/extras` against the engine's own lock."""

    checks: tuple[str, ...]
    """Statements of Python that must pass in the finished environment; what the engines import of the extra."""
    is_in: tuple[str, ...] = ()
    """Engines that bring it along: there is no lock for them."""


EXTRAS = {
    "nixl": Extra(("import nixl._api, nixl._bindings", "from nixl_ep import Buffer")),
    # mooncake.pg compiles itself for the GPU at hand when it is imported, so it can only be checked there.
    "mooncake": Extra(
        (
            "from mooncake.engine import TransferEngine",
            "from mooncake.store import MooncakeDistributedStore, ReplicateConfig",
            "from mooncake.mooncake_ep_buffer import Buffer",
        )
    ),
    "lmcache": Extra(("import lmcache.cuda_ops", "import lmcache.v1.cache_engine")),
    # Its own check wants a GPU. Everything after that, its library and whose NCCL is loaded included, needs none.
    "deep-ep": Extra(
        (
            "import torch; torch.cuda.is_available = lambda: True; "
            "from deep_ep import Buffer, Config, ElasticBuffer; Buffer.get_dispatch_config(8)",
        ),
        is_in=("sglang",),
    ),
}


def wanted_extras(text: str, accelerator: str) -> tuple[str, ...]:
    """Names in the order of the table. ValueError, in words for the one who typed them, if one cannot be had."""
    asked = set(text.replace(",", " ").split())
    if unknown := sorted(asked - EXTRAS.keys()):
        raise ValueError(f'EXTRAS="{text}": there is no {unknown[0]}. There are: {", ".join(EXTRAS)}.')
    if asked and accelerator != "cuda":
        raise ValueError(f'EXTRAS="{text}": they are built for GPUs only. Leave them out, or set ACCELERATOR=cuda.')
    return tuple(name for name in EXTRAS if name in asked)
