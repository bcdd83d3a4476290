"""Tensors that say they are on the GPU and have no memory, so that an engine builds a model of any size without a GPU."""

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors


class OnCard(TorchFunctionMode):
    """`with torch.device("cuda")` for fake tensors: what C++ makes of a number would be a real tensor."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.__setitem__ and isinstance(args[2], int | float | bool):
            args[0][args[1]].fill_(args[2])
            return None
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None) or torch.device("cuda", 0)
            made = func(*args, **kwargs)
            return torch.empty(made.size(), dtype=made.dtype, device=device)
        if func in _device_constructors() and kwargs.get("device") is None:
            kwargs["device"] = torch.device("cuda", 0)
        return func(*args, **kwargs)


@contextlib.contextmanager
def on_card(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), OnCard():
            yield
    finally:
        torch.set_default_dtype(before)
