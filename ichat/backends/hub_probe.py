"""``python -m ichat.backends.hub_probe URL``: exit code 0 when the hub answers there, else 1 and why on stdout.

A process of its own: a name that cannot be resolved blocks a thread for as long as the system likes, and a process with
such a thread cannot be forked.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

_LIMIT_S = 3.0


def main(url: str) -> int:
    """Asked for in the way of a browser, through the proxies that the environment names."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_LIMIT_S):  # noqa: S310
            return 0
    except urllib.error.HTTPError as error:
        # It answers, if not this question; but not for a gateway or a hub that has had enough of us.
        return 0 if error.code not in _AWAY else _say(f"{error.code} {error.reason}")
    except urllib.error.URLError as error:
        # A certificate that this library does not know may be known to the hub's own.
        return 0 if "CERTIFICATE_VERIFY" in str(error.reason) else _say(str(error.reason))
    except (OSError, ValueError) as error:
        return _say(str(error))


_AWAY = frozenset({407, 429, 500, 502, 503, 504})


def _say(words: str) -> int:
    sys.stdout.write(words)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
