"""SGLang imports torchvision even for text, and the registry's build of it does not import beside a CPU build of torch.

Its compiled operators are linked against CUDA and stay unloaded, yet its Python code describes two of them to torch,
which refuses to hear of operators that it does not know. Declared in advance, without an implementation, they let the
import pass; text never calls them. Nothing happens where torchvision is built for the CPU too, or torch for CUDA.
"""

import sys

TYPE_CHECKING = False  # importing typing for it would cost every start of Python some milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from torch.library import Library

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _BeforeTorchvision:
    """A finder that finds nothing: it only hears, once, that torchvision is about to be imported."""

    library: "Library | None" = None

    def find_spec(
        self,
        name: str,
        path: "Sequence[str] | None" = None,  # noqa: ARG002
        target: "ModuleType | None" = None,  # noqa: ARG002
    ) -> "ModuleSpec | None":
        if name == "torchvision":
            sys.meta_path.remove(self)
            if _is_needed():
                self._declare()
        return None

    def _declare(self) -> None:
        import torch  # torchvision would import it next

        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(operator)
        # torch forgets the operators when the library object goes.
        _BeforeTorchvision.library = library


def install() -> None:
    """Wait for the import of torchvision. Costs a look at a name for every other import."""
    sys.meta_path.insert(0, _BeforeTorchvision())


def _is_needed() -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return False
