"""From the environment to settings: which variable gives which setting, and what the strange ones are."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from ichat.config.kinds import kinds
from ichat.config.names import Path, model_variable, variables
from ichat.config.nearest import nearest
from ichat.config.schema import ModelSettings
from ichat.config.sources import UNTESTED_ENGINE
from ichat.config.values import Given
from ichat.errors import Problem

#: Read elsewhere (sources.py, resolve.py), and no settings.
OTHER = ("ICHAT_CONFIG", "ICHAT_MODELS", "ICHAT_DEBUG", "ICHAT_VLLM_ARGS", "ICHAT_SGLANG_ARGS")
#: Used for the model's path when nobody else names one.
FALL_BACKS = ("MODEL_ID", "HF_MODEL_ID")

# Kubernetes puts these into every container of a namespace that has a Service whose name begins with "ichat".
_LINK_NAME = re.compile(r"ICHAT_(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_.+)?)?)$")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
#: These cannot mean anything else, and hold a plain number.
_SURE_LINK_NAME = re.compile(r"ICHAT_(?:.+_)?(?:SERVICE_PORT|PORT_\d+_(?:TCP|UDP|SCTP)_PORT)$")


@dataclass
class VariableSettings:
    """What the environment gives; settings of a model under ("models", <name as in YAML>, key) or ("model", key)."""

    givens: dict[Path, Given] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def read_variables(given: Mapping[str, Given], models: Sequence[str], used: Container[str] = ()) -> VariableSettings:
    """Sort the variables; ``models`` are the names that the configuration file defines, ``used`` the variables that
    are within it: those need not be settings."""
    found = VariableSettings()
    links = [name for name, value in given.items() if _is_link(name, value)]
    for name, value in given.items():
        path = variables().get(name)
        if name in (*OTHER, UNTESTED_ENGINE) or not name.startswith("ICHAT_") or (path is None and name in used):
            continue
        if name in links:
            if path is not None:
                found.problems.append(_link_problem(value))
        elif path is not None:
            _add(found, path, value)
        elif name.startswith("ICHAT_MODELS__"):
            _add_of_model(found, name, value, models)
        else:
            _unknown(found, name, value)
    harmless = [name for name in links if name not in variables()]
    if harmless and len(harmless) == len(links):
        found.notices.append(f"{harmless[0]}: put here by Kubernetes for a Service; not a setting, ignored")
    return found


def _is_link(name: str, value: Given) -> bool:
    """By its name; where a setting could have the name, by its value too."""
    could_be_ours = name in variables() or (name.endswith("_PORT") and not _SURE_LINK_NAME.match(name))
    return bool(_LINK_NAME.match(name)) and (not could_be_ours or bool(_LINK_VALUE.match(str(value.raw))))


def _link_problem(value: Given) -> Problem:
    message = (
        f'"{value.raw}" was put here by Kubernetes, for a Service named "ichat". '
        "Set enableServiceLinks: false in the pod's spec, or rename the Service."
    )
    return value.problem(message, "E-CFG-SERVICE-LINK")


def _add(found: VariableSettings, path: Path, value: Given) -> None:
    before = found.givens.get(path)
    if before is not None and before.raw != value.raw:
        message = f"gives {'.'.join(path[-2:])} another value than {before.place}. Set one of them."
        found.problems.append(value.problem(message, "E-CFG-CONFLICT"))
    else:
        found.givens[path] = value


def _add_of_model(found: VariableSettings, name: str, value: Given, models: Sequence[str]) -> None:
    written, _, key = name.removeprefix("ICHAT_MODELS__").partition("__")
    known = {model_variable(model): model for model in models}
    if written not in known:
        has = f"the configuration file has {', '.join(models)}" if models else "the configuration file has no models"
        found.problems.append(value.problem(f"{has}; there is no {written}.", "E-CFG-UNKNOWN-VARIABLE"))
    elif key.lower() not in kinds(ModelSettings):
        meant = nearest(key.lower(), kinds(ModelSettings))
        advice = f"did you mean ICHAT_MODELS__{written}__{meant.upper()}?" if meant else "no setting of a model."
        found.problems.append(value.problem(f"unknown variable; {advice}", "E-CFG-UNKNOWN-VARIABLE"))
    else:
        _add(found, ("models", known[written], key.lower()), value)


def _unknown(found: VariableSettings, name: str, value: Given) -> None:
    meant = nearest(
        name,
        [*variables(), *OTHER, UNTESTED_ENGINE, *(f"{n}_FILE" for n in ("ICHAT_API_KEY", "ICHAT_SERVER__API_KEY"))],
    )
    advice = f"did you mean {meant}?" if meant else "every name that begins with ICHAT_ is read as a setting."
    found.problems.append(value.problem(f"unknown variable; {advice}", "E-CFG-UNKNOWN-VARIABLE"))
