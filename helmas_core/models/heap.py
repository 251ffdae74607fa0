"""What becomes of memory that a tensor on the host no longer needs.

By default glibc maps large blocks anew each time and gives the top of its heap back as soon as it is free, and the next
temporary pays for its pages one by one: a fifth of a training step on a CPU, a third of some hand-offs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

KEPT = 2**31 - 1  # bytes that stay with the process when nothing needs them; more has no place in mallopt's integer
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed() -> bool:
    """Let glibc take every block from its heap, of which it keeps up to `KEPT` bytes that are free.

    False, and nothing is changed, where there is no glibc or the environment says something of malloc already.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, KEPT)])
    return False
