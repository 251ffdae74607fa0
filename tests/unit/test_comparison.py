"""Several bridges' evaluations as one document, and how it is shown."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from helmas_cli.app import main
from helmas_core.comparison.result import beside, shared_arms
from helmas_core.comparison.run import Comparison
from helmas_core.errors import ConfigError, DataError
from helmas_core.lock import locked
from helmas_core.progress import Progress, Stopped
from helmas_core.report.comparison import scores_table, shared_table, write_comparison

pytestmark = pytest.mark.unit
COMPARE = ["compare", "--methods", "ridge,c2c", "-p", "lab", "-s", "data.limit=4", "-s", "eval.limit=4", "-o", "out"]
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


def test_times_are_shown_where_they_were_measured() -> None:
    costs = {arm: {"cold": {"p50": s}} for arm, s in {"text": 0.5, "bridge": 2.0, "deranged": 3.0}.items()}
    untimed = report({"bridge": "0010", "deranged": "0010"})
    shown = beside({"first": report(MARKS) | {"costs": costs}, "second": untimed}, seed=0)
    assert shown["costs"] == {"text": costs["text"]}
    assert [row[-1] for row in scores_table(shown)[1]] == ["2,000", "–"]
    assert {row[0]: row[-1] for row in shared_table(shown)[1]} == {"student": "–", "text": "500"}
    assert scores_table(shown)[0][-1] == shared_table(shown)[0][-1] == "ms, cold"
    assert "ms, cold" not in scores_table(both())[0] + shared_table(both())[0]


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


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="leads out of its folder"):
        write_comparison(tmp_path / "out", {"schema": 1, "variants": [], "reports": [both()]})
    assert not any((tmp_path / "elsewhere").iterdir()) and not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_ends_it_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int, times: int
) -> None:
    def go(self: Comparison, _: Any) -> dict[str, Any]:
        progress: Progress = self.progress
        assert json.loads(Path("out/lock.json").read_text())["pid"] == os.getpid()
        for _ in range(times):
            signal.raise_signal(number)
        assert progress.stop_requested()
        raise Stopped

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Comparison, "go", go)
    assert main(COMPARE) == code
    assert not Path("out").exists()


def test_two_commands_do_not_compare_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Comparison, "go", lambda *_: pytest.fail("it went on"))
    with locked(Path("out")):
        assert main(COMPARE) == 2
    assert "in use by" in capsys.readouterr().err
