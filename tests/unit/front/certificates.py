"""Certificates for tests, signed by themselves."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def write_certificate(directory: Path, name: str) -> tuple[str, str]:
    """(certificate, key) for the host of this name, and for 127.0.0.1."""
    cert, key = directory / "tls.crt", directory / "tls.key"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:prime256v1", "-subj", f"/CN={name}", "-addext",
               f"subjectAltName=DNS:{name},IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return str(cert), str(key)


def trusting(cert: str) -> ssl.SSLContext:
    """A client that trusts this certificate alone."""
    return ssl.create_default_context(cafile=cert)
