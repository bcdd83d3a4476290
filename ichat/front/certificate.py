"""The certificate that the public port shows: looked at again and again, since it is renewed while we serve."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ichat.front.tls_context import TlsFilesError, server_context

if TYPE_CHECKING:
    import ssl

_log = logging.getLogger(__name__)

#: What tells one state of the two files from another.
_Look = tuple[tuple[int, int, int] | None, ...]


class Certificate:
    """``context`` is for connections that begin now; those that are open keep theirs.

    TlsFilesError where the files cannot be used from the first. Later ones that cannot be used are told once, and the
    context stays as it is.
    """

    def __init__(self, cert_file: str, key_file: str) -> None:
        self._files = (cert_file, key_file)
        self._loaded = self._seen = self._look()
        self.context: ssl.SSLContext = server_context(cert_file, key_file)

    def refresh(self) -> None:
        """Called by the sweep: take over files that have changed, once they rest.

        The two cannot be replaced in one moment: until the second one is there they do not fit.
        """
        now, before = self._look(), self._seen
        self._seen = now
        if now == before and now != self._loaded:
            self.reload()

    def reload(self) -> None:
        self._loaded = self._seen = self._look()
        try:
            self.context = server_context(*self._files)
        except TlsFilesError as error:
            _log.error("front: the certificate was not renewed, the one before stays: %s", error)
        else:
            _log.info("front: certificate loaded from %s", self._files[0])

    def _look(self) -> _Look:
        return tuple(_signature(path) for path in self._files)


def _signature(path: str) -> tuple[int, int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
