"""The only reader of the environment and of files: everything that the configuration comes from, as it was given."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ichat.config.characters import wrong_line
from ichat.config.document import SIZE_LIMIT_BYTES, Document, parse
from ichat.config.foreign import is_for_engine
from ichat.config.values import Given, Layer
from ichat.errors import ExitCode, Problem

#: The configuration of the image; read when nobody names another.
DEFAULT_FILE = Path("/etc/ichat/configs.yaml")
#: Variables whose value may also stand in a file, named by the variable with _FILE at its end.
API_KEYS = ("ICHAT_API_KEY", "ICHAT_SERVER__API_KEY")
SECRETS = (
    *API_KEYS,
    "ICHAT_ADMIN_TOKEN",
    "ICHAT_ADMIN__TOKEN",
    "ICHAT_GATEWAY__API_KEY",
    "HF_TOKEN",
)
SECRET_LIMIT_BYTES = 64 * 1024
#: Lets a worker start on a version of its engine that ichat is not tested with. The only one of ichat's own variables
#: that a worker inherits: no setting, since it says nothing about what is served.
UNTESTED_ENGINE = "ICHAT_ALLOW_UNTESTED_ENGINE"
#: Outside names that are read beside those that begin with ICHAT_.
FOREIGN = ("HF_TOKEN", "MODEL_ID", "HF_MODEL_ID")


@dataclass(frozen=True)
class Sources:
    """What was given, and what could not be read. Nothing is interpreted yet; ``resolve`` does that."""

    arguments: tuple[str, ...]  # the command line after the command, without --config
    variables: Mapping[str, Given]  # ICHAT_… and foreign names; a secret from a file stands under its plain name
    document: Document | None
    problems: tuple[Problem, ...]
    environ: Mapping[str, str]

    @classmethod
    def read(cls, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Sources:
        """Read everything once. Never raises for what it finds: ``problems`` says what is wrong.

        ``argv`` is the command line after the command (``serve``); ``environ`` is the process's own unless given.
        """
        environ = dict(os.environ if environ is None else environ)
        problems: list[Problem] = []
        arguments, path, place = _take_config(argv, environ, problems)
        variables = _read_variables(environ, problems)
        document = _read_document(path, place, problems)
        return cls(tuple(arguments), variables, document, tuple(problems), environ)

    @property
    def config_path(self) -> str | None:
        """The configuration file that was read."""
        return self.document.name if self.document else None

    @property
    def is_debug(self) -> bool:
        """ICHAT_DEBUG: tracebacks with the error line."""
        return self.environ.get("ICHAT_DEBUG", "") not in {"", "0", "false"}

    @property
    def hf_token(self) -> str | None:
        """The token for the hub, from HF_TOKEN or HF_TOKEN_FILE."""
        given = self.variables.get("HF_TOKEN")
        return given.raw if given and isinstance(given.raw, str) else None

    def worker_environment(self) -> dict[str, str]:
        """The environment that a worker inherits: the launcher's, without ichat's own variables and secrets."""
        seen = {name: text for name, text in self.environ.items() if is_handed_down(name) and is_for_engine(name, text)}
        kept = {name: text for name, text in seen.items() if name != "HF_TOKEN_FILE"}
        return kept | ({"HF_TOKEN": self.hf_token} if self.hf_token else {})

    def secret_file(self, path: str) -> tuple[str, str | None]:
        """The secret that a file holds, without one newline at its end, and what is wrong with it."""
        return _secret_in(self.local_path(path) or path)

    def local_path(self, text: str) -> str | None:
        """The absolute path that a text names, or None when it is no local path.

        What begins with ``/``, ``.`` or ``~``, or exists here, is local; anything else names a hub repository.
        """
        path = Path(text)
        if text.startswith("~"):
            home = self.environ.get("HOME", "/")
            path = Path(home + text[1:]) if text == "~" or text.startswith("~/") else path
        is_local = text.startswith(("/", ".", "~")) or os.path.lexists(path)
        return str(Path(os.path.abspath(path))) if is_local else None  # noqa: PTH100  resolve() would follow links

    def demo_path(self) -> str | None:
        """Where the embedded model lies: beside the package in a checkout, beside the environments in the image."""
        places = (Path(__file__).parents[2], Path(sys.prefix).parent)
        found = (root / "models" / "demo" for root in places)
        return next((str(path) for path in found if (path / "config.json").is_file()), None)


def is_handed_down(name: str) -> bool:
    """Whether a worker may inherit the variable: ichat's own settings reach it as messages."""
    return not name.startswith("ICHAT_") or name == UNTESTED_ENGINE


def allows_untested_engine() -> bool:
    """Whether the user wants to try a version of an engine that ichat is not tested with."""
    return os.environ.get(UNTESTED_ENGINE, "") not in {"", "0", "false"}


#: vLLM names the CPUs of a process in one of these just while it starts it; which one depends on the OpenMP library.
_CPU_LISTS = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES")


def openmp_cpu_list() -> str:
    """The CPUs that OpenMP is told to keep to at this moment, in the words of whichever library; empty if it is not."""
    return next((value for name in _CPU_LISTS if (value := os.environ.get(name))), "")


def process_environment() -> MutableMapping[str, str]:
    """This process's own, to be read and completed before an engine is imported, which reads it then."""
    return os.environ


def _take_config(
    argv: Sequence[str], environ: Mapping[str, str], problems: list[Problem]
) -> tuple[list[str], str | None, str]:
    """The command line without ``--config``, the file it or the environment names, and who named it."""
    rest: list[str] = []
    paths: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--config":
            rest.append(word)
        elif value := value if equals else next(words, ""):
            paths.append(value)
        else:
            problems.append(Problem("E-USAGE", "--config:", "needs the path of a YAML file.", ExitCode.USAGE))
    if len(set(paths)) > 1:
        message = f"given twice: {paths[0]} and {paths[-1]}. Give one of them."
        problems.append(Problem("E-USAGE", "--config:", message, ExitCode.USAGE))
    if paths:
        return rest, paths[0], "--config"
    if named := environ.get("ICHAT_CONFIG"):
        return rest, named, "ICHAT_CONFIG"
    return rest, str(DEFAULT_FILE) if DEFAULT_FILE.exists() else None, str(DEFAULT_FILE)


def _read_document(path: str | None, place: str, problems: list[Problem]) -> Document | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            content = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        code = ExitCode.PERMISSION if isinstance(error, PermissionError) else ExitCode.NO_INPUT
        message = f"{_what(error)}. Mount or name a YAML file, or leave {place} out."
        problems.append(Problem("E-CFG-FILE", f"{path}:", message, code))
        return None
    return replace(parse(path, content), digest=_digest(content))


def config_digest(path: str) -> str | None:
    """What tells one content of a configuration file from another; None: it is not there, or cannot be read now."""
    try:
        with Path(path).open("rb") as file:
            return _digest(file.read(SIZE_LIMIT_BYTES + 1))
    except OSError:
        return None


def config_stamp(path: str) -> str | None:
    """Another one after each write, even to the same content: a file that is emptied first looks empty each time."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_variables(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, Given]:
    """ichat's variables by name. One that is empty counts as not set, except that a secret must not be empty."""
    found: dict[str, Given] = {}
    for name, text in sorted(environ.items()):
        is_ours = name.startswith("ICHAT_") or name in FOREIGN
        is_file = name.removesuffix("_FILE") in SECRETS and name.endswith("_FILE")
        if is_ours and not is_file and (text or name in SECRETS):
            found[name] = Given(text, name, Layer.ENVIRONMENT)
    for name in SECRETS:
        _read_secret(name, environ, found, problems)
    return found


def _read_secret(name: str, environ: Mapping[str, str], found: dict[str, Given], problems: list[Problem]) -> None:
    path = environ.get(f"{name}_FILE")
    if path and environ.get(name):
        message = f"is set, and {name}_FILE too. Set one of them."
        problems.append(Problem("E-CFG-CONFLICT", f"{name}:", message))
    elif path:
        text = _read_secret_file(f"{name}_FILE", path, problems)
        if text is not None:
            found[name] = Given(text, f"{name}_FILE", Layer.ENVIRONMENT)
    elif name in found and not found[name].raw:
        del found[name]
        if name.startswith("ICHAT_"):  # an empty HF_TOKEN is common, and harmless
            open_to_all = ", which would leave the port open to everybody" if name in API_KEYS else ""
            message = f"is empty{open_to_all}. Unset it, or give it a value."
            problems.append(Problem("E-CFG-VALUE", f"{name}:", message))
    elif name in found and (wrong := wrong_line(environ[name])):
        del found[name]
        problems.append(Problem("E-CFG-SECRET", f"{name}:", f"{wrong}; it must hold the secret and no more."))


def _read_secret_file(name: str, path: str, problems: list[Problem]) -> str | None:
    """The text of a secret's file. Its content never appears in a problem."""
    text, wrong = _secret_in(path)
    if wrong:
        problems.append(Problem("E-CFG-SECRET", f"{name}:", f"{path}: {wrong}, or unset {name}."))
    return None if wrong else text


def _secret_in(path: str) -> tuple[str, str | None]:
    """The text of a file without one newline at its end, and what is wrong with the file."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116  one call, one error
            raise IsADirectoryError(21, "is a directory")
        with Path(path).open("rb") as file:
            content = file.read(SECRET_LIMIT_BYTES + 1)
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        return "", "is not UTF-8 text. Write one that is"
    except OSError as error:
        return "", f"{_what(error)}. Mount the file"
    wrong = "is empty" if not text else "is too long" if len(content) > SECRET_LIMIT_BYTES else wrong_line(text)
    return text, f"{wrong}; it must hold the secret and no more. Write it again" if wrong else None


def _what(error: OSError) -> str:
    words = {
        FileNotFoundError: "no such file",
        PermissionError: "may not be read",
        IsADirectoryError: "is a directory, not a file",
        NotADirectoryError: "no such file",
    }
    return words.get(type(error), f"cannot be read ({error.strerror})")
