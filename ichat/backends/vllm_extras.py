"""The settings of vLLM (0.32) that need a package of their own. The twin of sglang_extras.py."""

from __future__ import annotations

from ichat.backends.extras import DEEP_EP, LMCACHE, MOONCAKE, NIXL, Need

NEEDS = (
    Need("kv_transfer_config", r"\bNixl\w*Connector", NIXL),
    Need("kv_transfer_config", r"\bMooncake\w*Connector", MOONCAKE),
    Need("kv_transfer_config", r"\bLMCache\w*Connector", LMCACHE),
    Need("ec_transfer_config", r"\bECMooncake\w*Connector", MOONCAKE),
    Need("kv_offloading_backend", r"\blmcache$", LMCACHE),
    Need("all2all_backend", r"\bdeepep_", DEEP_EP),
    Need("all2all_backend", r"\bnixl_ep$", NIXL),
    Need("eplb_config", r"\bnixl\b", NIXL),
)
