"""Text of models and files as it may be shown: nothing in it can steer a terminal or hide in a page. No torch here."""

from __future__ import annotations

import logging
import unicodedata

_STEERING = frozenset(("Cc", "Cs", "Zl", "Zp"))  # controls, half characters, breaks that only some programs make
_JOINING = frozenset("\u00ad\u200c\u200d")  # a soft hyphen, and what scripts and emoji are joined with
_COUNTING = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")  # formats that can be seen


def printable(text: str) -> str:
    """`text` with every character escaped that steers, reorders or cannot be seen; line breaks and tabs stay."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    return char if harmless(char) else ascii(char)[1:-1]


def harmless(char: str) -> bool:
    """Whether a character may be shown as it is."""
    if char in "\n\t":
        return True
    kind = unicodedata.category(char)
    if kind == "Cf":  # marks of direction, tags and other formats without a shape
        return char in _JOINING or char in _COUNTING
    return kind not in _STEERING


class PrintableRecord(logging.LogRecord):
    """A log record of which the message can be shown: libraries log what files and servers say."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return printable(super().getMessage())


def log_printably() -> None:
    """From now on every log message of every library, and every warning, is shown through `printable`."""
    logging.setLogRecordFactory(PrintableRecord)
    logging.captureWarnings(True)


def as_json(text: str) -> str:
    """A JSON document with what may not be shown written as JSON escapes, so that it says the same."""
    return "".join(char if harmless(char) else _escape(char) for char in text)


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
