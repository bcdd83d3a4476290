"""What an engine chose for a model that it has built: read off the modules, the same for both engines."""

import collections
from typing import Any


def of_model(model: Any) -> dict[str, object]:
    """Method → how often, with the kernels and back ends that it names; attention back end → how often."""
    methods: collections.Counter[str] = collections.Counter()
    attention: collections.Counter[str] = collections.Counter()
    for module in model.modules():
        if (method := getattr(module, "quant_method", None)) is not None:
            methods[_named(method)] += 1
        if hasattr(module, "get_attn_backend"):
            attention[module.get_attn_backend().get_name()] += 1
    return {"architecture": type(model).__name__, "methods": dict(methods), "attention": dict(attention)}


def _named(method: Any) -> str:
    kernels = [
        f"{name}={getattr(value, 'name', None) or type(value).__name__}"
        for name, value in sorted(vars(method).items())
        if value is not None and not isinstance(value, bool) and name.endswith(("backend", "kernel"))
    ]
    return " ".join([type(method).__name__, *kernels])
