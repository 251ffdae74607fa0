"""Text of models and files as it may be shown: nothing in it can steer a terminal or hide in a page. No torch here."""

from __future__ import annotations

import unicodedata

_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they reorder what is shown


def printable(text: str) -> str:
    """`text` with every control character escaped, line breaks and tabs apart."""
    return "".join(char if harmless(char) else ascii(char)[1:-1] for char in text)


def harmless(char: str) -> bool:
    """Whether a character may be shown as it is."""
    if char in "\n\t":
        return True
    return unicodedata.category(char) not in ("Cc", "Cs") and ord(char) not in _BIDI
