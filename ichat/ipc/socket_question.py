"""What the launcher asks through a worker's HTTP socket, and the worker's server answers below its app and its log."""

from __future__ import annotations

#: The whole of it, in one piece. No client's request is like it: the front adds headers.
QUESTION = b"GET /.ichat/alive HTTP/1.1\r\nHost: ichat\r\nConnection: close\r\n\r\n"
ANSWER = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
