"""The words for what a worker does and what state it is in: the same in messages, logs, metrics and answers."""

from __future__ import annotations

from typing import Literal

#: What a worker does until it is ready, in this order.
Phase = Literal["starting", "imports", "arguments", "weights", "server", "warm-up"]
#: The states of an instance, and of a model (the best of its instances).
State = Literal["starting", "ready", "draining", "stopped", "failed"]
