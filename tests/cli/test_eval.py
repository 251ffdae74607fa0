"""`eval`, `baseline`, `inspect-cache` and `doctor` over the fake core."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helmas_cli import ui
from helmas_cli.report import failures, gate, interval, number, show_report
from helmas_cli.ui import Screen
from helmas_core.config import ARMS
from helmas_core.errors import ConfigError
from helmas_core.lm_eval import main
from tests.cli.fakes import Cli, Core, report

pytestmark = pytest.mark.unit


def test_one_data_set_is_one_document(cli: Cli, core: Core, bridge: Path) -> None:
    result = cli("eval", "--bridge", bridge, "--dataset", "relay", "--json", "-q")
    assert (result.code, result.err) == (0, "")
    assert result.json["dataset"] == "relay"
    assert set(result.json["arms"]) == set(ARMS)


def test_several_data_sets_are_reports(cli: Cli, core: Core, bridge: Path, tmp_path: Path) -> None:
    result = cli("eval", "--bridge", bridge, "--dataset", "relay,arithmetic", "--json", "-o", "runs/demo")
    assert [one["dataset"] for one in result.json["reports"]] == ["relay", "arithmetic"]
    assert json.loads((tmp_path / "runs/demo/report.json").read_text()) == result.json
    evidence, trained = core.calls[-1][1]
    assert [len(one.items) for one in evidence] == [1, 1]
    assert evidence[1].report["arms"] == result.json["reports"][1]["arms"]
    assert trained.path == bridge
    tables = cli("eval", "--bridge", bridge, "--dataset", "relay,arithmetic", "--arms", "bridge,text").out
    assert "relay · test · n = 40" in tables
    assert "arithmetic · test · n = 40" in tables
    assert "deranged" not in tables.replace("bridge-deranged", "")


def test_writes_nothing_without_out(cli: Cli, core: Core, bridge: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert cli("eval", "--bridge", bridge, "--dataset", "relay").code == 0
    assert cli("inspect-cache", "--bridge", bridge).code == 0
    assert cli("baseline", "-p", "lab").code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_the_bridge_brings_its_configuration(cli: Cli, core: Core, bridge: Path) -> None:
    core.metadata = {"pair": {"teacher": "T", "student": "S"}, "data": {"dataset": "relay", "handoff": "prompt"}}
    argv = (
        "eval",
        "--bridge",
        bridge / "bridge.safetensors",
        "-q",
        "--limit",
        "5",
        "-s",
        "eval.batch=3",
        "--batch",
        "2",
    )
    assert cli(*argv).code == 0
    config = core.calls[-1][1]
    assert (config.pair.teacher, config.data.handoff, config.data.dataset) == ("T", "prompt", "relay")
    assert (config.eval.limit, config.eval.batch, config.data.limit) == (5, 2, None)
    assert cli(*argv, "-p", "lab", "--handoff", "reasoning").code == 0
    config = core.calls[-1][1]
    assert (config.pair.teacher, config.data.handoff) == ("lab:teacher", "reasoning")
    assert cli(*argv, "-s", "data.cut_last_step=true").code == 0
    config = core.calls[-1][1]
    assert (config.data.cut_last_step, config.data.dataset, config.pair.teacher) == (True, "relay", "T")


def test_gates(cli: Cli, core: Core, bridge: Path) -> None:
    argv = ("eval", "--bridge", bridge, "--dataset", "relay", "--json", "-q", "--fail-under")
    assert cli(*argv, ".9", "--fail-under", "bridge-deranged=.2").code == 0
    missed = cli(*argv, "bridge/text=.95")
    assert missed.code == 3
    assert missed.json["arms"]["bridge"]["accuracy"] == 0.9
    assert "gate not met on relay: bridge/text = 0.947, asked for 0.95" in missed.err


def test_a_gate_on_an_arm_that_the_bridge_leaves_out(cli: Cli, core: Core, bridge: Path) -> None:
    core.metadata = {"eval": {"arms": ["bridge"]}}
    result = cli("eval", "--bridge", bridge, "--dataset", "relay", "--fail-under", "bridge-deranged=.2")
    assert (result.code, core.calls) == (2, [])
    assert 'no arm "deranged"' in result.err


def test_items_seen_in_training_are_named(cli: Cli, core: Core, bridge: Path) -> None:
    core.training = {"dataset": "relay, jsonl:mine.jsonl", "split": "train", "items": 9, "seed": 0}
    Path("mine.jsonl").write_text("".join(f'{{"prompt": "{i}", "answer": "1"}}\n' for i in range(40)))
    argv = ("eval", "--bridge", bridge, "--dataset", "relay,arithmetic,jsonl:mine.jsonl", "--json")
    for split, seen in (("test", [0, 0, 0]), ("train", [1, 0, 1])):
        result = cli(*argv, "--split", split)
        assert [len(one["warnings"]) for one in result.json["reports"]] == seen
        assert result.err.count("warning: the bridge was trained on items of") == sum(seen)
    whole = cli("eval", "--bridge", bridge, "--dataset", "jsonl:mine.jsonl", "--split", "all", "--json")
    assert "jsonl:mine.jsonl, split all" in whole.json["warnings"][0]


def test_tasks_of_lm_eval_are_shown_as_ours_are(
    cli: Cli, core: Core, bridge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helmas_core.lm_eval.find_spec", lambda name: name)
    argv = ("eval", "--bridge", bridge, "--lm-eval", "gsm8k,./mine.yaml", "--num-fewshot", "3", "--limit", "7")
    result = cli(*argv, "-o", "out")
    assert result.code == 0
    assert [name for name, _ in core.calls] == ["choose", "load_pair", "evaluate_task", "evaluate_task", "report"]
    asked = [call for name, call in core.calls if name == "evaluate_task"]
    assert [(chosen, shots) for _, chosen, shots in asked] == [("gsm8k", 3), ("./mine.yaml", 3)]
    assert asked[0][0].eval.limit == 7
    assert asked[0][0].eval.arms == ("student", "teacher", "bridge", "deranged")
    assert [line.split() for line in result.out.splitlines() if "f1,none" in line] == [
        ["gsm8k", "f1,none", ".500", ".500", ".500", ".500"],
        ["./mine.yaml", "f1,none", ".500", ".500", ".500", ".500"],
    ]
    some = cli(*argv, "--arms", "bridge,own", "--json", "-q", "--fail-under", "bridge=.95")
    assert (some.code, [one["dataset"] for one in some.json["reports"]]) == (3, ["gsm8k", "./mine.yaml"])
    assert some.json["reports"][0]["arms"].keys() == {"bridge", "own"}


def test_the_harness_own_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("helmas_core.lm_eval.find_spec", lambda name: None)
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: helmas_core.lm_eval: lm-evaluation-harness is not installed")


def test_no_task_is_not_every_task(cli: Cli, core: Core, bridge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helmas_core.lm_eval.find_spec", lambda name: name)
    cli("eval", "--bridge", bridge, "--lm-eval", "")
    assert ("choose", "") in core.calls and "evaluate" not in dict(core.calls)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-fewshot", "3"], "give --lm-eval"),
        (["--bridge", "runs/b", "--arms", "student,text"], "bridge is the arm that is compared"),
        (["--bridge", "runs/b", "-o", "runs/b", "--dry-run"], "a run's folder"),
    ],
)
def test_flags_that_do_not_go_together(
    cli: Cli, core: Core, bridge: Path, tmp_path: Path, flags: list[str], words: str
) -> None:
    shutil.copytree(bridge, tmp_path / "runs/b")
    result = cli("eval", "--bridge", bridge, *flags)
    assert (result.code, core.calls) == (2, [])
    assert words in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset", "relay"], "leave --dataset out"),
        (["--split", "test"], "leave --split out"),
        (["--arms", "text,bridge"], "text is student"),
        ([], 'pip install "helmas[lm-eval]"'),
    ],
)
def test_what_lm_eval_has_no_use_for(
    cli: Cli, core: Core, bridge: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str
) -> None:
    monkeypatch.setattr("helmas_core.lm_eval.find_spec", lambda name: None if not flags else name)
    result = cli("eval", "--bridge", bridge, "--lm-eval", "gsm8k", *flags)
    assert (result.code, core.calls) == (2, [])
    assert words in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (".5", 0.9),
        ("text=.5", 0.95),
        ("bridge-deranged=.2", 0.7),
        ("student - bridge = -1", -0.65),
        ("bridge/text=1", 0.947),
    ],
)
def test_gate_values(text: str, value: float) -> None:
    assert gate(text, ARMS).value(report("relay")) == pytest.approx(value, abs=1e-3)


def test_numbers() -> None:
    values = (0.9834, -0.25, 1.25, 38.24, 1234.5, 7, 0.0, 1.0, None, float("nan"))
    assert [number(value) for value in values] == [
        ".983",
        "-.250",
        "1.250",
        "38.2",
        "1,234",
        "7",
        ".000",
        "1.000",
        "",
        "",
    ]
    assert (number(0.5, "+"), interval((0.1, 0.2), "+"), interval(None)) == ("+.500", "+.100 … +.200", "")


def test_a_table_of_arms_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "PIPE_WIDTH", 80)
    show_report(Screen(), report("relay", ARMS))
    lines = capsys.readouterr().out.splitlines()
    (bridge,) = (line.split() for line in lines if line.split()[:1] == ["bridge"])
    assert bridge == ["bridge", ".900", ".100", "…", ".990", "40", "0", "1", ".100", ".200", "1,234"]


@pytest.mark.parametrize("text", ["", "bridge", "bridge=", "bridge-=.1", "bridge-text-own=.1", "=.1", "bridge=high"])
def test_unreadable_gates(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        gate(text, ARMS)


def test_a_value_that_is_not_there_never_passes() -> None:
    empty = report("relay") | {"arms": {"bridge": {"accuracy": None}, "text": {"accuracy": 0.0}}}
    gates = [gate(text, ARMS) for text in ("-1", "text/text=-5", "bridge-text=-5")]
    assert len(failures(gates, [empty])) == 3


def test_baseline(cli: Cli, core: Core, tmp_path: Path) -> None:
    result = cli("baseline", "-p", "lab", "--dataset", "arithmetic", "--limit", "4", "-o", "out")
    assert result.code == 0
    assert "teacher" in result.out
    assert core.calls[-1][1].eval.limit == 4
    assert json.loads((tmp_path / "out/baseline.json").read_text())["bridge"] is None


def test_inspect_cache(cli: Cli, core: Core, bridge: Path, tmp_path: Path) -> None:
    result = cli("inspect-cache", "--bridge", bridge, "--prompt", "hello", "--png", "pictures/map.png", "-o", "out")
    assert result.code == 0
    assert core.calls[-1] == ("inspect", (f"bridge of {bridge / 'bridge.safetensors'}", "hello", None, None))
    assert "attn cos" in result.out
    assert "K blend weights" in result.out
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"map-k.png", "map-v.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"inspect.json", "inspect.html", "figures"}
    assert cli("inspect-cache", "--bridge", bridge, "--json", "-q").json["blend"]["v"] == [[1.0, 0.0], [0.0, 1.0]]


def test_inspect_cache_takes_an_item_and_something_to_compare_with(cli: Cli, core: Core, bridge: Path) -> None:
    own, other = bridge / "bridge.safetensors", bridge.with_name("other.safetensors")
    other.write_bytes(b"bridge")
    argv = ("inspect-cache", "--bridge", bridge, "--item", "7", "--html", "page.html", "--against")
    assert cli(*argv, "8").code == 0
    assert core.calls[-1] == ("inspect", (f"bridge of {own}", None, "7", "8"))
    assert Path("page.html").read_text() == "8"
    assert cli(*argv, other).code == 0
    assert core.calls[-1] == ("inspect", (f"bridge of {own}", None, "7", f"bridge of {other}"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--prompt", "a", "--item", "b"), "exclude each other"),
        (("--against", "b"), "give --bridge PATH"),
        (("--text", "a", "--item", "b"), "--prompt"),
    ],
)
def test_inspect_cache_refuses(cli: Cli, core: Core, argv: tuple[str, ...], said: str) -> None:
    result = cli("inspect-cache", "-p", "lab", *argv)
    assert (result.code, result.out, core.calls) == (2, "", [])
    assert said in result.err


def test_a_bridge_to_compare_with_has_to_be_there(cli: Cli, core: Core, bridge: Path) -> None:
    result = cli("inspect-cache", "--bridge", bridge, "--against", "gone/bridge.safetensors")
    assert result.code != 0
    assert "no such file" in result.err


def test_inspect_cache_without_blend_weights(cli: Cli, core: Core) -> None:
    result = cli("inspect-cache", "-p", "lab", "--png", "map.png")
    assert result.code == 0
    assert "no blend weights" in result.err
    assert "blend weights" not in result.out


def test_doctor(cli: Cli, core: Core) -> None:
    assert cli("doctor", "--json").json["bridge_parameters"] == 3672032
    healthy = cli("doctor", "-p", "lab")
    assert healthy.code == 0
    assert "3,672,032" in healthy.out
    core.ok = False
    ill = cli("doctor", "-p", "lab")
    assert ill.code == 1
    assert "pair: two tokenizers — take another" in ill.out
