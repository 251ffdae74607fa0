"""Bad input: one line on stderr that says what, where and what to do; exit 2; nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.fakes import Cli, Core, Result

pytestmark = pytest.mark.unit


def one_error(result: Result, *words: str, code: int = 2) -> None:
    assert result.code == code
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert [word for word in words if word not in line] == []


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


BAD = {
    "profile": (["-p", "labb"], ["labb", 'did you mean "lab"']),
    "profile file": (["-p", "nowhere/x.toml"], ["nowhere/x.toml", "no such profile file"]),
    "broken TOML": (["-p", "broken.toml"], ["broken.toml", "line 1"]),
    "dataset": (["--dataset", "gsm9k"], ["gsm9k", 'did you mean "gsm8k"']),
    "no dataset": (["--dataset", ","], ["no data set"]),
    "jsonl file": (["--dataset", "jsonl:gone.jsonl"], ["gone.jsonl"]),
    "key": (["-s", "train.stepz=3"], ["train.stepz", 'did you mean "steps"']),
    "section": (["-s", "trian.steps=3"], ["trian", 'did you mean "train"']),
    "value": (["-s", "train.batch=none"], ["train.batch"]),
    "assignment": (["-s", "train.batch"], ["--set", "section.key=value"]),
    "limit": (["--limit", "0"], ["--limit", "greater than or equal to 1"]),
    "limit word": (["--limit", "many"], ["--limit", "integer"]),
    "option": (["--limits", "3"], ["--limits", "--help"]),
}


@pytest.mark.parametrize(("argv", "words"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("command", ["train", "baseline", "doctor", "chat"])
def test_bad_input(cli: Cli, core: Core, tmp_path: Path, command: str, argv: list[str], words: list[str]) -> None:
    (tmp_path / "broken.toml").write_text("[pair\n")
    one_error(cli(command, *argv), *words)
    assert written(tmp_path) == ["broken.toml"]
    assert core.calls == []


def test_unknown_command(cli: Cli) -> None:
    one_error(cli("evaluate"), "evaluate", "helmas --help")


EVAL = {
    "arm": (["--arms", "student,bridg"], ["--arms", 'did you mean "bridge"']),
    "no arm": (["--arms", ","], ["--arms"]),
    "gate": (["--fail-under", "bridge>.9"], ["--fail-under", "bridge-deranged=.2"]),
    "gate arm": (["--fail-under", "brige-text=.1"], ["--fail-under", 'did you mean "bridge"']),
    "gate arm left out": (["--arms", "student,bridge", "--fail-under", "bridge-deranged=.1"], ["deranged"]),
    "handoff": (["--handoff", "latin"], ["--handoff", "prompt"]),
    "batch": (["--batch", "0"], ["--batch"]),
    "dataset": (["--dataset", "relai"], ['did you mean "relay"']),
    "split": (["--dataset", "relay", "--split", "tset"], ["tset", "test"]),
}


@pytest.mark.parametrize(("argv", "words"), EVAL.values(), ids=EVAL.keys())
def test_bad_evaluation(cli: Cli, core: Core, bridge: Path, argv: list[str], words: list[str]) -> None:
    one_error(cli("eval", "--bridge", bridge, *argv), *words)
    assert core.calls == []


def test_flags_are_checked_before_the_bridge_is_read(cli: Cli) -> None:
    one_error(cli("eval", "--bridge", "gone", "--arms", "x"), "--arms")


@pytest.mark.parametrize("command", ["eval", "chat", "inspect-cache"])
def test_missing_bridge(cli: Cli, core: Core, tmp_path: Path, command: str) -> None:
    one_error(cli(command, "--bridge", "gone.safetensors"), "gone.safetensors", "no such file")
    (tmp_path / "empty").mkdir()
    one_error(cli(command, "--bridge", "empty"), "no bridge.safetensors", "helmas train")


def test_eval_needs_a_bridge(cli: Cli) -> None:
    one_error(cli("eval"), "--bridge")


def test_bad_rows_are_reported_before_a_model_is_loaded(cli: Cli, core: Core, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "answer": "1"}\n{"prompt": "b"}\n')
    one_error(cli("train", "-p", "lab", "--dataset", "jsonl:mine.jsonl", "-o", "runs/x"), "mine.jsonl", "2", "answer")
    (tmp_path / "mine.jsonl").write_text("")
    one_error(cli("train", "-p", "lab", "--dataset", "jsonl:mine.jsonl", "-o", "runs/x"), "mine.jsonl")
    assert core.calls == []
    assert written(tmp_path) == ["mine.jsonl"]


def test_validation_items_are_read_before_a_model_is_loaded(cli: Cli, core: Core, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')  # its hash makes it a train item
    argv = ("train", "-p", "lab", "--dataset", "jsonl:mine.jsonl", "-o", "runs/x", "-q")
    one_error(cli(*argv), "mine.jsonl", "no items for split validation")
    assert core.calls == []
    assert written(tmp_path) == ["mine.jsonl"]
    assert cli(*argv, "-s", "train.eval_samples=0").code == 0


def test_used_run_folder(cli: Cli, core: Core, tmp_path: Path) -> None:
    assert cli("train", "-p", "lab", "-o", "runs/x").code == 0
    core.calls.clear()
    one_error(cli("train", "-p", "lab", "-o", "runs/x"), "runs/x", "--resume", "--overwrite")
    assert core.calls == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    one_error(cli("train", "-p", "lab", "-o", "mine", "--overwrite"), "not a run folder")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_pair_that_cannot_be_loaded_leaves_nothing(cli: Cli, core: Core, tmp_path: Path) -> None:
    result = cli("train", "-p", "lab", "-s", "pair.teacher=gone", "-o", "runs/x", "-q")
    one_error(result, "pair.teacher", "not found", "check the name")
    assert written(tmp_path) == []


def test_a_method_option_that_is_not_known(cli: Cli, core: Core, tmp_path: Path) -> None:
    one_error(cli("train", "-p", "lab", "-s", "bridge.layer_blnding=skip"), "layer_blnding", "layer_blending")
    assert core.calls == []
    assert written(tmp_path) == []


def test_a_failure_before_the_first_step_leaves_nothing(cli: Cli, core: Core, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("boom\nsecond line")

    core.hook = refuse
    one_error(cli("train", "-p", "lab", "-o", "runs/x", "-q"), "ValueError: boom second line", "HELMAS_DEBUG=1", code=1)
    assert written(tmp_path / "runs") == []


def test_a_failure_later_is_in_the_manifest(cli: Cli, core: Core, tmp_path: Path) -> None:
    def fail(_: object, run: object, __: object) -> None:
        run.log({"step": 1})  # pyright: ignore[reportAttributeAccessIssue]
        raise RuntimeError("out of memory")

    core.hook = fail
    assert cli("train", "-p", "lab", "-o", "runs/x", "-q").code == 1
    assert '"failed"' in (tmp_path / "runs" / "x" / "manifest.json").read_text()


def test_debug_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELMAS_DEBUG", "1")
    with pytest.raises(ValueError, match="labb"):
        cli("doctor", "-p", "labb")


def test_control_characters_do_not_reach_the_terminal(cli: Cli) -> None:
    one_error(cli("doctor", "-p", "\x1b[2Jlab"), r"\x1b[2Jlab")


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m helmas_cli profiles show lab | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.stdout.startswith("[pair]")
    assert "Traceback" not in done.stderr
