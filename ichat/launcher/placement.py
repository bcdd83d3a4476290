"""Which GPUs an instance gets beside all the others: those that are named for it, else free ones."""

from __future__ import annotations

from collections.abc import Iterable

from ichat.config.schema import Model, Settings
from ichat.errors import ResourceError
from ichat.launcher import environment
from ichat.launcher.devices import choose_gpus, gpus_needed, listed_gpus
from ichat.launcher.instance import InstanceSpec


class Placement:
    """``target`` are the settings that are to hold: what is named there is given to nobody else."""

    def __init__(self, visible: Iterable[str], target: Settings) -> None:
        self._visible = tuple(visible)
        self.target = target

    def used_by(self, spec: InstanceSpec) -> tuple[str, ...]:
        """Where it really is: one that was told nothing takes the first of all, one for each rank."""
        if spec.gpus or environment.accelerator_of(spec.model) == "cpu":
            return spec.gpus
        return self._visible[: gpus_needed(spec.model)]

    def free(self, model: Model, slot: int, there: Iterable[InstanceSpec]) -> tuple[str, ...]:
        """GPUs that nobody has, or shares of named ones. ResourceError: there are not enough.

        Nothing for an instance on the CPU, and for one that says nothing and is the only one: it sees what we see.
        """
        if environment.accelerator_of(model) == "cpu" or not (gpus_needed(model) or listed_gpus(model, slot)):
            return ()
        there = list(there)
        if (listed := listed_gpus(model, slot)) is not None:
            self._check(model, slot, listed, there)
            return listed
        if model.gpus is None and not there and sum(one.instances for one in self.target.models) == 1:
            return ()
        taken = [gpu for spec in there for gpu in self.used_by(spec)]
        return choose_gpus(model, slot, self._visible, [*self._named(), *taken])

    def beside(
        self, old: InstanceSpec, model: Model, slot: int, others: Iterable[InstanceSpec]
    ) -> tuple[tuple[str, ...], bool]:
        """(GPUs for an instance that starts while ``old`` still serves, whether they are ``old``'s own).

        Others than the old one's where there are free ones; else the same, where memory has to be enough for both.
        """
        if environment.accelerator_of(model) == "cpu":
            return (), False
        if listed_gpus(model, slot) is None:
            try:
                return self.free(model, slot, [*others, old]), False
            except ResourceError:
                if len(self.used_by(old)) != gpus_needed(model):
                    raise
                return old.gpus, True
        gpus = self.free(model, slot, others)
        return gpus, bool(set(gpus) & set(self.used_by(old)))

    def after(self, old: InstanceSpec, model: Model, slot: int, others: Iterable[InstanceSpec]) -> tuple[str, ...]:
        """GPUs for an instance that starts when ``old`` has left: the same where their number fits."""
        others = list(others)
        is_choice = listed_gpus(model, slot) is None and environment.accelerator_of(model) == "cuda"
        if is_choice and old.gpus and len(old.gpus) == gpus_needed(model):
            return old.gpus
        return self.free(model, slot, others)

    def _named(self) -> list[str]:
        places = ((model, slot) for model in self.target.models for slot in range(model.instances))
        return [gpu for model, slot in places for gpu in listed_gpus(model, slot) or ()]

    def _check(self, model: Model, slot: int, listed: tuple[str, ...], there: Iterable[InstanceSpec]) -> None:
        for spec in there:
            both = set(listed) & set(self.used_by(spec))
            is_shared = model.memory_fraction is not None and spec.model.memory_fraction is not None
            if both and not is_shared:
                raise ResourceError(
                    f"{model.name}/{slot}: is to run on GPU {min(both)}, which {spec.name} uses. Free it first, or"
                    " share it: name it for both, with memory_fraction for each.",
                    code="E-GPU-BUSY",
                )
