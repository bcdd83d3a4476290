"""Which models of the file this process serves: one file may describe what several containers share."""

from __future__ import annotations

from collections.abc import Mapping

from ichat.config.nearest import nearest
from ichat.config.values import Given
from ichat.errors import Problem

#: Names, separated by commas or spaces.
VARIABLE = "ICHAT_MODELS"


def select_models(models: Mapping[str, Given], given: Given | None) -> tuple[dict[str, Given], list[Problem]]:
    """The models that are named, in the file's order; all of them when nothing is said, or when a name is wrong.

    What is not named is not resolved any further: its path may exist in another container only.
    """
    if given is None:
        return dict(models), []
    names = str(given.raw).replace(",", " ").split()
    problems = [_unknown(given, name, models) for name in names if name not in models]
    if problems or not names:
        return dict(models), problems
    return {name: place for name, place in models.items() if name in names}, []


def _unknown(given: Given, name: str, models: Mapping[str, Given]) -> Problem:
    if not models:
        message = f'names "{name}", but no configuration file names models. Mount one at /etc/ichat/configs.yaml.'
        return given.problem(message, "E-CFG-UNKNOWN-MODEL")
    meant = nearest(name, list(models))
    advice = f"did you mean {meant}?" if meant else f"it has {', '.join(models)}."
    return given.problem(f'the configuration file has no model "{name}"; {advice}', "E-CFG-UNKNOWN-MODEL")
