"""Whether the certificate and the key of the public port can be used, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ichat.config.schema import Server
from ichat.errors import ExitCode, Problem


class _EncryptedError(Exception):
    pass


def check_tls(server: Server, origins: Mapping[str, str]) -> list[Problem]:
    """Load the pair as the front will. No part of a file is ever shown."""
    if server.tls_cert_file is None or server.tls_key_file is None:
        return []
    files = {"tls_cert_file": server.tls_cert_file, "tls_key_file": server.tls_key_file}
    problems = [problem for name, path in files.items() for problem in _unreadable(path, _place(name, origins))]
    return problems or _unusable(server.tls_cert_file, server.tls_key_file, origins)


def _place(name: str, origins: Mapping[str, str]) -> str:
    place = origins.get(f"server.{name}", f"server.{name}")
    is_line = place.rpartition(":")[2].isdigit()
    return f"{place} server.{name}:" if is_line else f"{place}:"


def _unreadable(path: str, place: str) -> list[Problem]:
    try:
        with Path(path).open("rb"):
            return []
    except PermissionError:
        message = f"{path}: may not be read by this user. Change its owner or mode."
        return [Problem("E-PERMISSION", place, message, ExitCode.PERMISSION)]
    except FileNotFoundError:
        return [Problem("E-CFG-FILE", place, f"{path}: no such file. Mount it.", ExitCode.NO_INPUT)]
    except OSError as error:
        return [Problem("E-CFG-FILE", place, f"{path}: cannot be read ({error.strerror}).", ExitCode.NO_INPUT)]


def _unusable(cert: str, key: str, origins: Mapping[str, str]) -> list[Problem]:
    import ssl  # only who has a certificate pays for it

    def ask() -> str:
        raise _EncryptedError  # else OpenSSL asks at the terminal, and waits

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=ask)
    except _EncryptedError:
        message = f"{key}: is encrypted, and nobody is here to type its passphrase. Give the key without one."
        return [Problem("E-CFG-TLS", _place("tls_key_file", origins), message)]
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"{key}: is not the key of the certificate {cert}. Give the one that it was made for."
            return [Problem("E-CFG-TLS", _place("tls_key_file", origins), message)]
        name, path, what = _which(context, cert, key)
        message = f"{path}: is not {what} (PEM): {error.reason or error}. Give another file."
        return [Problem("E-CFG-TLS", _place(name, origins), message)]
    return []


def _which(context: object, cert: str, key: str) -> tuple[str, str, str]:
    """Which of the two is at fault: the certificate, unless it can be read alone."""
    import ssl

    assert isinstance(context, ssl.SSLContext)
    try:
        context.load_verify_locations(cert)
    except ssl.SSLError:
        return "tls_cert_file", cert, "a certificate chain"
    return "tls_key_file", key, "a private key"
