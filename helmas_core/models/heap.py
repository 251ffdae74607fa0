"""What becomes of memory that a tensor on the host no longer needs.

By default glibc maps every block of more than a fraction of a MiB anew, or gives the top of its heap back as soon as it
is free, and the next temporary pays for its pages one by one: a third of a hand-off on a CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

MIB = 2**20
KEPT = 1024 * MIB  # most that stays with the process when nothing needs it
BLOCK = 32 * MIB  # most that a block from the heap may have; glibc refuses a higher threshold
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)


def keep_freed() -> bool:
    """Let glibc serve blocks of up to `BLOCK` bytes from its heap and keep `KEPT` of it.

    False, and nothing is changed, where there is no glibc or the environment says something of malloc already.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all([mallopt(_MMAP_THRESHOLD, BLOCK), mallopt(_TRIM_THRESHOLD, KEPT)])
    return False
