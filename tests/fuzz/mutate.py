"""One small harm to a valid file: bytes, text, numbers and words, trees of JSON, headers of safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"|\btrue\b|\bfalse\b|\bnull\b')
NUMBERS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"1e-400",
    b"9" * 19,
    b"9" * 400,
    b"9" * 5000,
    b"0.5",
    b"nan",
    b"inf",
)
NUMBERS += tuple(str(value).encode() for value in (2**16, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**9))
WORDS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"../../../etc/passwd"',
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\\u202e"',
    b'"a"',
)
TOKENS = (
    b"\x00", b"\x1b[2J", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", "\u202e".encode(), b"\r\n", b"\n",
    b"[" * 3000, b'{"a":' * 1500, b"{" * 70, b"a." * 3000, b'"' * 9, b"\\" * 9, b"," * 9, b"# ", b"[[", b"]]",
    b"../" * 20, b"x" * 70_000, b"\xf0\x9f\x98\x80", b"__reduce__", b"!!python/object", b"{{ 7 * 7 }}", b"${HOME}",
    b"</script>", b"-" * 99,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**53 + 1, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x" * 5000,
    "\x1b]0;title\x07", "\u202etxt", "../../../etc/passwd", "/etc/passwd", "lab:../x", "\x00", "\ud800", [], {}, [[]],
    [None], [0] * 300, {"a": {}}, {"../x": 1}, "os.system", "cuda:99", "torch.float64", ["x"], [-1], [2**40, 2**40],
    "9" * 5000, "1e999",
)  # fmt: skip


def mutate(chance: Random, data: bytes, others: list[bytes], kind: str) -> bytes:
    """`data` with one to three harms of the sorts that suit `kind`: "bytes", "text", "json", "lines" or "tensors"."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if kind == "tensors" and chance.random() < 0.7:
            data = _header(chance, data)
        elif kind in ("json", "lines") and chance.random() < 0.5:
            data = _document(chance, data, kind)
        elif kind != "bytes" and chance.random() < 0.5:
            data = _swap(chance, data)
        else:
            data = chance.choice(_HARMS)(chance, data, others)
    return data


def _place(chance: Random, data: bytes) -> int:
    """Anywhere, half of the time near the beginning, where lengths and headers are."""
    return chance.randrange(min(len(data), 64) + 1) if chance.random() < 0.5 else chance.randrange(len(data) + 1)


def _flip(chance: Random, data: bytes, _others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8)) if data else 0):
        changed[min(_place(chance, data), len(data) - 1)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(chance: Random, data: bytes, _others: list[bytes]) -> bytes:
    return data[: _place(chance, data)]


def _drop(chance: Random, data: bytes, _others: list[bytes]) -> bytes:
    begin = _place(chance, data)
    return data[:begin] + data[begin + chance.choice((1, 2, 8, 64)) :]


def _double(chance: Random, data: bytes, _others: list[bytes]) -> bytes:
    begin = _place(chance, data)
    return data[:begin] + data[begin : begin + chance.choice((1, 8, 64, 4096))] * 2 + data[begin:]


def _splice(chance: Random, data: bytes, others: list[bytes]) -> bytes:
    other = chance.choice(others)
    return data[: _place(chance, data)] + other[_place(chance, other) :]


def _insert(chance: Random, data: bytes, _others: list[bytes]) -> bytes:
    begin = _place(chance, data)
    return data[:begin] + chance.choice(TOKENS) + data[begin:]


def _length(chance: Random, data: bytes, _others: list[bytes]) -> bytes:
    """Another number in place of eight or four bytes."""
    wide = chance.choice((8, 4))
    begin = chance.choice((0, 0, 4, 8, 16, _place(chance, data)))
    number = chance.choice((0, 1, 2**20, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data), len(data) - 8)) % 2 ** (
        8 * wide
    )
    return data[:begin] + number.to_bytes(wide, "little") + data[begin + wide :]


_HARMS: tuple[Callable[[Random, bytes, list[bytes]], bytes], ...] = (
    _flip, _cut, _drop, _double, _splice, _insert, _insert, _length,
)  # fmt: skip


def _swap(chance: Random, data: bytes) -> bytes:
    """Another number for a number, or another word for a word."""
    pattern, new = chance.choice(((_NUMBER, NUMBERS), (_WORD, WORDS)))
    begin = _place(chance, data)
    found = pattern.search(data, begin) or pattern.search(data)
    return data if found is None else data[: found.start()] + chance.choice(new) + data[found.end() :]


def _document(chance: Random, data: bytes, kind: str) -> bytes:
    """A change in the tree of a JSON document, or of one line."""
    lines = data.split(b"\n") if kind == "lines" else [data]
    at = chance.randrange(len(lines))
    try:
        lines[at] = _dump(_tree(chance, json.loads(lines[at])))
    except (ValueError, RecursionError):
        return _swap(chance, data)
    return b"\n".join(lines)


def _dump(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=True).encode()


def _tree(chance: Random, tree: Any) -> Any:
    """`tree` with another value, a key less or a key more somewhere."""
    inner = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    if not inner or chance.random() < 0.15:
        return chance.choice(VALUES)
    key = chance.choice(inner)
    if chance.random() < 0.1:
        del tree[key]
    elif chance.random() < 0.05 and isinstance(tree, dict):
        tree[chance.choice(("", "__class__", "more", "\x1b[31m", "../x"))] = chance.choice(VALUES)
    else:
        tree[key] = _tree(chance, tree[key])
    return tree


def _header(chance: Random, data: bytes) -> bytes:
    """A change in the header of a safetensors file or in the documents inside it, with a length that fits again."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    try:
        tree = json.loads(header)
        metadata = tree.get("__metadata__", {})
        name = chance.choice(list(metadata)) if metadata and chance.random() < 0.6 else None
        if name is None:
            header = _dump(_tree(chance, tree))
        else:
            metadata[name] = _dump(_tree(chance, json.loads(metadata[name]))).decode()
            header = _dump(tree)
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
        header = _swap(chance, header)
    header = _swap(chance, header) if chance.random() < 0.2 else header
    return len(header).to_bytes(8, "little") + header + rest
