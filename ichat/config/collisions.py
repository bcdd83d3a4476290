"""What two models, or two instances, may not both have: a name, a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ichat.config import document
from ichat.config.schema import Model
from ichat.config.values import Given
from ichat.errors import Problem

#: What the instances on one GPU may say together; the rest is for the driver's and the engines' own contexts.
MEMORY_LIMIT = 0.95

#: By model and key: where a setting was given; under "name" the place of the model itself.
Places = Mapping[str, Mapping[str, Given]]


def same_names(models: Sequence[Model], places: Places) -> Iterator[Problem]:
    """Every name that clients may ask for belongs to one model, and is said once."""
    first: dict[str, tuple[Model, Given | None]] = {}
    for model in models:
        for name, given in _names(model, places[model.name]):
            other, there = first.setdefault(name, (model, given))
            if there is given:
                continue
            place = f" ({there.place})" if there else ""
            if other is model:
                message = f'"{name}" is a name of this model already{place}. Say it once.'
            else:
                message = f'"{name}" is a name of {other.name} too{place}. Clients could not tell them apart.'
            found = given or there
            assert found is not None  # one model without a place has one name
            yield found.problem(message, "E-CFG-DUPLICATE")


def _names(model: Model, places: Mapping[str, Given]) -> Iterator[tuple[str, Given | None]]:
    yield model.served_name, places.get("served_model_name", places.get("name"))
    for at, alias in enumerate(model.aliases):
        yield alias, _entry(places["aliases"], at)
    for at, adapter in enumerate(model.adapters):
        yield from ((name, _entry(places["lora_paths"], at)) for name in model.names_of(adapter))


def same_gpus(models: Sequence[Model], places: Places) -> Iterator[Problem]:
    """A GPU belongs to one instance, unless all that share it say which part of its memory is theirs."""
    users: dict[str, list[tuple[Model, Given]]] = {}
    for model in models:
        if isinstance(model.gpus, tuple):
            for ids, given in _lists(model.gpus, places[model.name]["gpus"]):
                for gpu in ids:
                    users.setdefault(gpu, []).append((model, given))
    for gpu, sharing in users.items():
        if len(sharing) > 1:
            yield from _shared(gpu, sharing, places)


def _lists(gpus: tuple[tuple[str, ...], ...], given: Given) -> Iterator[tuple[tuple[str, ...], Given]]:
    is_flat = isinstance(given.raw, document.Sequence) and isinstance(given.raw.entries[0], document.Scalar)
    for at, ids in enumerate(gpus):
        yield ids, given if is_flat else _entry(given, at)


def _shared(gpu: str, sharing: list[tuple[Model, Given]], places: Places) -> Iterator[Problem]:
    (first, there), *others = sharing
    silent = list(dict.fromkeys(model.name for model, _ in sharing if model.memory_fraction is None))
    total = round(sum(model.memory_fraction or 0 for model, _ in sharing), 6)
    if silent:
        for _model, given in others:
            yield given.problem(
                f"GPU {gpu} is given to an instance of {first.name} too ({there.place}). Give each its own, or say "
                f"memory_fraction for all that share it (missing for {', '.join(silent)}).",
                "E-CFG-DUPLICATE",
            )
    elif total > MEMORY_LIMIT:
        last = others[-1][0]
        shares = ", ".join(
            f"{model.name} {model.memory_fraction} ({places[model.name]['memory_fraction'].place})"
            for model, _ in sharing
        )
        yield places[last.name]["memory_fraction"].problem(
            f"the instances on GPU {gpu} take {total} of its memory, more than {MEMORY_LIMIT}: {shares}. Lower them.",
            "E-CFG-CONFLICT",
        )


def _entry(given: Given, at: int) -> Given:
    """The place of one entry of a list."""
    node = given.raw.entries[at] if isinstance(given.raw, document.Sequence) else None
    return given if node is None else given.inner(str(at), node)
