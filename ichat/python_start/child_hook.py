"""Engines spawn processes that outlive a killed worker and keep its memory: with this they die with who made them."""

import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_SPAWNED = "from multiprocessing.spawn import"
_FORKSERVER = "from multiprocessing.forkserver import"


def install() -> None:
    """Bind this process to its parent's life if multiprocessing started it to run an engine's code.

    A fork server passes it on to what it forks. The resource tracker is left alone: its work, unlinking the shared
    memory of the dead, begins when its parent is gone. For the kernel the parent is the *thread* that started us, so an
    engine must be started by a thread that lives as long as the worker.
    """
    if _is_started_to(_SPAWNED):
        _die_with_parent()
    elif _is_started_to(_FORKSERVER):
        _die_with_parent()
        os.register_at_fork(after_in_child=_die_with_parent)


def _is_started_to(statement: str) -> bool:
    # multiprocessing starts its processes with `python … -c "from multiprocessing.… import main; main(…)"`.
    return any(argument.startswith(statement) for argument in sys.orig_argv[1:])


def _die_with_parent() -> None:
    import ctypes  # not above: the pythons that this does not concern must not pay for it

    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    # Gone before the call took effect: then no signal will come. If the parent was gone even before we asked for its
    # number, multiprocessing's own pipe to it ends us.
    if parent == 1 or os.getppid() != parent:
        os._exit(1)
