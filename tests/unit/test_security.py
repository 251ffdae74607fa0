"""SECURITY.md: each promise names a test, and each test that is named is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


def test_each_promise_has_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) >= 15
    assert [row for row in rows if "::" not in row.split("|")[-2]] == []


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_each_test_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_command_that_it_names_exists() -> None:
    assert "python -m tests.fuzz" in TEXT and (ROOT / "tests/fuzz/__main__.py").is_file()
