"""What runs first in every Python of an engine's environment, before any engine is imported.

`scripts/setup` names these modules in the environment's `ichat.pth`. Python reads that file at each of its starts, so
what is here imports nothing that a bare Python has not imported already, and decides in microseconds.
"""
