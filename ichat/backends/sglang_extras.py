"""The settings of SGLang (0.5.21) that need a package of their own. The twin of vllm_extras.py."""

from __future__ import annotations

from ichat.backends.extras import DEEP_EP, LMCACHE, MOONCAKE, NIXL, Extra, Need


def _backends(dest: str, **extras: Extra) -> tuple[Need, ...]:
    return tuple(Need(dest, rf"\b{pattern}", extra) for pattern, extra in extras.items())


NEEDS = (
    # Without a word on the transfer SGLang takes Mooncake.
    Need("disaggregation_mode", r"\b(?:prefill|decode)$", MOONCAKE, unless="disaggregation_transfer_backend"),
    *_backends("disaggregation_transfer_backend", mooncake=MOONCAKE, nixl=NIXL),
    *_backends("encoder_transfer_backend", mooncake=MOONCAKE),
    *_backends("hicache_storage_backend", mooncake=MOONCAKE, nixl=NIXL),
    *_backends("elastic_ep_backend", mooncake=MOONCAKE, nixl=NIXL),
    *_backends("moe_a2a_backend", deepep=DEEP_EP, mooncake=MOONCAKE, nixl=NIXL),
    *_backends("speculative_moe_a2a_backend", deepep=DEEP_EP, mooncake=MOONCAKE, nixl=NIXL),
    Need("enable_lmcache", "true", LMCACHE),
)
