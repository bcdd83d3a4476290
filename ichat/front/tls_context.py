"""The TLS context of a certificate chain and its key, as files."""

from __future__ import annotations

import ssl
from pathlib import Path

#: Of TLS 1.2; those of 1.3 are all of this kind: forward secret, authenticated, and cheap for a server. The groups that
#: keys are agreed on stand in `openssl.cnf` beside this file, since Python cannot name more than one of them.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsFilesError(Exception):
    """``words``: what is wrong with which file."""


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """For HTTP/1.1 over TLS 1.2 or later. TlsFilesError: they cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    # Much work for a server, little for a client, and of no use to HTTP.
    context.options |= ssl.OP_NO_RENEGOTIATION
    asked: list[bool] = []

    def no_password() -> str:
        """Without one OpenSSL would ask for that of an encrypted key at the terminal."""
        asked.append(True)
        return "none"

    try:
        for path in (cert_file, key_file):
            Path(path).open("rb").close()  # the loader would not tell which of them it is
        context.load_cert_chain(cert_file, key_file, password=no_password)
    except ssl.SSLError as error:
        raise TlsFilesError(f"{cert_file}, {key_file}: {_words(error, is_encrypted=bool(asked))}") from error
    except OSError as error:
        raise TlsFilesError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return context


def _words(error: ssl.SSLError, *, is_encrypted: bool) -> str:
    if is_encrypted:
        return "the key is encrypted, one without a passphrase is needed"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    return "no certificate chain and key in PEM form"
