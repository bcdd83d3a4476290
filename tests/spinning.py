"""Lets a living process run in circles, as an endless loop in its code would: by ptrace, without its help."""

from __future__ import annotations

import ctypes
import os
import platform

_ATTACH, _DETACH, _PEEKTEXT, _POKETEXT, _GETREGS = 16, 17, 1, 5, 12
_RIP, _REGISTERS = 16, 27  # of struct user_regs_struct on x86-64
_JUMP_TO_ITSELF = 0xFEEB  # eb fe
CAN_SPIN = platform.machine() == "x86_64"


def spin(pid: int) -> None:
    """The first thread of the process never gets beyond the instruction that it has reached."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype, libc.ptrace.argtypes = ctypes.c_long, [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2

    def ptrace(what: int, address: int = 0, data: int = 0) -> int:
        ctypes.set_errno(0)
        answer = int(libc.ptrace(what, pid, address, data))
        if ctypes.get_errno():
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return answer

    ptrace(_ATTACH)
    os.waitpid(pid, 0x40000000)  # __WALL: it is nobody's child here
    try:
        registers = (ctypes.c_ulonglong * _REGISTERS)()
        ptrace(_GETREGS, 0, ctypes.addressof(registers))
        place = registers[_RIP]
        word = ptrace(_PEEKTEXT, place)
        ptrace(_POKETEXT, place, (word & ~0xFFFF) | _JUMP_TO_ITSELF)
    finally:
        ptrace(_DETACH)
