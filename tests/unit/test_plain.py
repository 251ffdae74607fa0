"""Text that may be shown: what steers, reorders or hides is escaped, everything that people write stays."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
import warnings
from collections.abc import Iterator

import pytest

from helmas_core.plain import as_json, harmless, log_printably, printable

pytestmark = pytest.mark.unit
STEERING = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200B, *range(0x200E, 0x2010), *range(0x2028, 0x202F)]
STEERING += [*range(0x2066, 0x2070), 0xFEFF, 0xFFF9, 0xD800, 0xDFFF, 0xE0041, 0xE007F]


@pytest.mark.parametrize("code", [code for code in STEERING if chr(code) not in "\n\t"], ids=hex)
def test_what_steers_is_escaped(code: int) -> None:
    shown = printable(f"a{chr(code)}b")
    assert shown == f"a{ascii(chr(code))[1:-1]}b" and shown.isascii()


def test_all_of_unicode_is_either_seen_or_escaped() -> None:
    """What is left is a letter, a mark, a number, a sign, a space, or joins letters and can be seen by that."""
    kinds = {unicodedata.category(chr(code)) for code in range(sys.maxunicode + 1) if harmless(chr(code))}
    assert kinds & {"Zl", "Zp", "Cs"} == set()
    assert [
        code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cc" and harmless(chr(code))
    ] == [9, 10]


@pytest.mark.parametrize(
    "text", ["Grüße, 你好 мир", "नमस्ते क्ष", "نمی‌خواهم", "👩‍👩‍👧 👍🏽", "a\tb\nc", "x² ≤ ½ → ∞", "שלום"]
)
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


def test_json_says_the_same_in_escapes() -> None:
    value = {"a\x1b[2J": "\u202ex\x9b \U000e0041 é 👍🏽 \u2028"}
    text = as_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert all(map(harmless, text)) and "👍🏽" in text


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a library's own handler writes."""
    factory, stream = logging.getLogRecordFactory(), io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [logging.getLogger(name) for name in ("some.library", "py.warnings")]
    for logger in loggers:
        logger.addHandler(handler)
    log_printably()
    yield stream
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)
    for logger in loggers:
        logger.removeHandler(handler)


def test_logs_and_warnings_are_shown_so_too(logged: io.StringIO) -> None:
    logging.getLogger("some.library").warning("file %s", "\x1b]0;owned\x07.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # whatever another test has left
        logging.captureWarnings(True)
        warnings.warn("\x1b[2J", stacklevel=1)
    said = logged.getvalue()
    assert r"file \x1b]0;owned\x07.txt" in said and r"\x1b[2J" in said and "\x1b" not in said
