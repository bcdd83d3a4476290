"""The names under which a setting can be given: its path in YAML, its variables, its word on the command line."""

from __future__ import annotations

from functools import cache

from pydantic import BaseModel

from ichat.config.flags import Catalogue, Flag, Kind
from ichat.config.kinds import is_section, kinds
from ichat.config.schema import ModelSettings, Settings

#: A setting: ("server", "port"), ("defaults", "dtype"), ("models", "qwen", "dtype"); ("model", "dtype") is the
#: setting of the one model there is, whatever its name.
Path = tuple[str, ...]

#: Short names: ICHAT_PORT and --port.
SHORT: dict[str, Path] = {
    "host": ("server", "host"),
    "port": ("server", "port"),
    "api_key": ("server", "api_key"),
    "run_dir": ("server", "run_dir"),
    "cors_origins": ("server", "cors_origins"),
    "tls_cert_file": ("server", "tls_cert_file"),
    "tls_key_file": ("server", "tls_key_file"),
    "front_processes": ("front", "processes"),
    "admin_host": ("admin", "host"),
    "admin_port": ("admin", "port"),
    "admin_token": ("admin", "token"),
    "watch": ("reload", "watch"),
    "gateway": ("gateway", "address"),
    "log_format": ("server", "log_format"),
    "lame_duck": ("timeouts", "linger_s"),
    "drain_seconds": ("timeouts", "drain_s"),
}
#: Settings of a model that are mappings or verbatim words: no word on the command line, no short variable.
COMPOUND = ("engine_args", "vllm_args", "sglang_args", "extra_argv", "env")


#: Flags that take several values in vLLM: the first is the setting, what the others are is told or taken.
SEVERAL: tuple[Path, ...] = (("model", "served_model_name"), ("server", "api_key"))


@cache
def sections() -> dict[Path, type[BaseModel]]:
    """Every section that has a fixed place, sections within sections too."""
    found: dict[Path, type[BaseModel]] = {}

    def walk(path: Path, section: type[BaseModel]) -> None:
        found[path] = section
        for name, info in section.model_fields.items():
            if is_section(info):
                walk((*path, name), info.annotation)  # type: ignore[arg-type]

    for name, info in Settings.model_fields.items():
        if is_section(info):
            walk((name,), info.annotation)  # type: ignore[arg-type]
    return found


@cache
def variables() -> dict[str, Path]:
    """Every variable with a fixed name, and the setting it gives."""
    found = {
        f"ICHAT_{'__'.join((*path, name)).upper()}": (*path, name)
        for path, section in sections().items()
        for name in kinds(section)
    }
    found |= {f"ICHAT_DEFAULTS__{name.upper()}": ("defaults", name) for name in kinds(ModelSettings)}
    found |= {f"ICHAT_{name.upper()}": path for name, path in SHORT.items()}
    found |= {f"ICHAT_{name.upper()}": ("model", name) for name in kinds(ModelSettings) if name not in COMPOUND}
    return found | {"ICHAT_MODEL": ("model", "name")}


@cache
def words() -> dict[str, Path]:
    """ichat's own words of the command line."""
    found = {f"--{name.replace('_', '-')}": path for name, path in SHORT.items()}
    found |= {f"--{name.replace('_', '-')}": ("model", name) for name in kinds(ModelSettings) if name not in COMPOUND}
    return found | {"--model-name": ("model", "name")}


@cache
def own_flags() -> tuple[Flag, ...]:
    """ichat's own words as flags; the dest is the setting's path."""
    return tuple(_flag(word, path) for word, path in words().items())


def own_catalogue() -> Catalogue:
    return Catalogue("ichat", "", own_flags())


def model_variable(name: str) -> str:
    """How a model's name is written within a variable: ICHAT_MODELS__<this>__CONTEXT_LENGTH."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name).upper()


def kind_word(path: Path) -> str:
    if path[0] == "model":
        return "text" if path[1] == "name" else kinds(ModelSettings)[path[1]].word
    return kinds(sections()[path[:-1]])[path[-1]].word


def _flag(word: str, path: Path) -> Flag:
    kind: dict[str, Kind] = {"bool": "toggle", "list": "values"}
    spellings = (word, f"--no-{word[2:]}") if kind_word(path) == "bool" else (word,)
    return Flag(spellings, ".".join(path), "values" if path in SEVERAL else kind.get(kind_word(path), "value"))
