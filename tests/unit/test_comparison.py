"""Several bridges' evaluations as one document, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helmas_core.comparison.result import beside, shared_arms
from helmas_core.errors import DataError
from helmas_core.report.comparison import scores_table, write_comparison

pytestmark = pytest.mark.unit
MARKS = {"student": "0010", "text": "1111", "bridge": "1110", "deranged": "0000"}


def report(right: dict[str, str], warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    arms = {
        name: {"accuracy": marks.count("1") / len(marks), "ci": [0.1, 0.9], "n": len(marks)}
        for name, marks in right.items()
    }
    head = {"dataset": "relay", "split": "test", "n": 4, "bridge": {"method": "helmas"}}
    return {**head, "arms": arms, "outcomes": {"right": right}, "costs": {}, "warnings": list(warnings)}


def both() -> dict[str, Any]:
    second = {"bridge": "0010", "deranged": "0001"}
    return beside({"first": report(MARKS), "second": report(second, ("odd",))}, seed=0)


def test_arms_without_a_bridge_are_shared() -> None:
    assert shared_arms(["student", "bridge", "zero", "own", "deranged"]) == ["student", "own"]
    assert list(both()["arms"]) == ["student", "text"]


def test_each_variant_is_set_against_the_shared_arms_and_the_first() -> None:
    variants = both()["variants"]
    assert {name: row["delta"] for name, row in variants["second"]["contrasts"].items()} == {
        "bridge-student": 0.0,
        "bridge-deranged": 0.0,
        "bridge-text": -0.75,
    }
    assert variants["second"]["against_first"]["delta"] == -0.5
    assert variants["first"]["against_first"] is None
    assert variants["first"]["contrasts"]["bridge-deranged"]["delta"] == 0.75


def test_each_variant_is_judged_as_alone() -> None:
    costs = {arm: {"cold": {"p50": s}} for arm, s in {"text": 1.0, "bridge": 2.0}.items()}
    second = report({"bridge": "0010", "deranged": "0010"}) | {"costs": {"bridge": {"cold": {"p50": 4.0}}}}
    rows = beside({"first": report(MARKS) | {"costs": costs}, "second": second}, seed=0)["variants"]
    assert "2.0x slower than text cold" in rows["first"]["verdict"]["text"]
    assert rows["second"]["verdict"]["level"] == "useless"
    assert "4.0x slower than text cold" in rows["second"]["verdict"]["text"]
    few = beside({"first": report(MARKS)}, seed=0, minimum_n=5)["variants"]["first"]["verdict"]
    assert few["level"] == "too_few"


@pytest.mark.parametrize("other", [{"n": 3}, {"items": [{"task": "relay", "id": "2"}]}])
def test_unlike_items_are_not_paired(other: dict[str, Any]) -> None:
    first = report(MARKS) | {"items": [{"task": "relay", "id": "1"}]}
    with pytest.raises(DataError, match="second, relay: answered other items than the first"):
        beside({"first": first, "second": first | other}, seed=0)


def test_the_report_shows_every_variant_and_its_warnings(tmp_path: Path) -> None:
    one = {"run": "r", "method": "helmas", "mode": "replace", "parameters": 7, "steps": 2, "train_seconds": 1.5}
    first = {**one, "name": "first", "changes": {}}
    second = {**one, "name": "<b>second</b>", "changes": {"train.seed": 1}}
    document = {"schema": 1, "variants": [first, second], "reports": [both()]}
    made = write_comparison(tmp_path / "out", document)
    assert all(path.is_file() for path in made)
    text, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    assert "second: odd" in text
    assert all("second: useless: it does no better" in shown for shown in (text, page))
    assert "train.seed = 1" in page
    assert "<b>second" not in page
    assert "<b>second" not in text
    head, rows = scores_table(document["reports"][0])
    assert dict(zip(head, rows[1], strict=True))["bridge"] == ".250"
    assert rows[1][-2] == "-.500"
