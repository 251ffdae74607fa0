"""What becomes of memory that a tensor on the host no longer needs.

By default glibc maps large blocks anew each time and gives the top of its heap back as soon as it is free, and the next
temporary pays for its pages one by one: a fifth of a training step on a CPU, a third of some hand-offs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

KEPT = 2**31 - 1  # bytes that stay with the process when nothing needs them; more has no place in mallopt's integer
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)
_SAID = [f"MALLOC_{name}_" for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD", "MMAP_MAX", "TOP_PAD")]


def keep_freed() -> bool:
    """Let glibc take every block from its heap, of which it keeps up to `KEPT` bytes that are free.

    False, and nothing is changed, where there is no glibc or the environment says how it is to be.
    """
    if any(name in os.environ for name in _SAID) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    return all([_call("mallopt", _MMAP_MAX, 0), _call("mallopt", _TRIM_THRESHOLD, KEPT)])


def give_back() -> bool:
    """Return every free page to the system, those between blocks that are in use as well, which add up over hours of
    blocks of all sizes; False where there are none, or no glibc. Source: malloc_trim(3)."""
    return _call("malloc_trim", 0)


def _call(name: str, *given: Any) -> bool:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another libc, or another system
        return bool(getattr(ctypes.CDLL(None), name)(*given))
    return False
