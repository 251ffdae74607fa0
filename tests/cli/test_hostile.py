"""Names, answers and data that would steer a terminal or mean something to Rich: commands show them as they are."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from helmas_cli.repl import Repl
from helmas_cli.terminal import Completions
from helmas_cli.ui import BarMeter, LineMeter, Screen
from helmas_core.json_files import write_json
from helmas_core.layering import load_config
from helmas_core.plain import harmless
from helmas_core.runs import create_run
from tests.cli.fakes import Cli, Core, Echo, report
from tests.cli.test_ui import Terminal

pytestmark = pytest.mark.unit
STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202etxt\u2066\u200f\u200e\U000e0041"
MARKUP = "[red]r[/red] [link=http://x]l[/link] :smile: [bold"
EVIL = f"{STEERING}{MARKUP}<b>|../../x"


def clean(*texts: str) -> str:
    """The texts, which must hold nothing raw."""
    said = "".join(texts)
    assert [char for char in said if not harmless(char)] == []
    return said


def evil_run(name: str) -> None:
    run = create_run(Path("runs") / name, load_config(["lab"], [f"data.dataset={json.dumps(EVIL)}"]), ["helmas", EVIL])
    found: dict[str, Any] = report(EVIL)
    found["arms"][EVIL] = found["arms"]["bridge"]
    found["contrasts"][EVIL] = {"delta": 0.5, "ci": [0.1, 0.9], "p": 0.5}
    found |= {"split": EVIL, "verdict": {"text": EVIL}, "costs": {EVIL: {"seconds": {"bridge": 0.5}}}}
    run.write_report(found)
    item = {"task": EVIL, "id": EVIL, "question": EVIL, "arms": {"bridge": {"right": True}}}
    (run.path / "items.jsonl").write_text(json.dumps(item) + "\n" + json.dumps({**item, "id": "2"}) + "\n")
    run.note(status=EVIL, started=EVIL)


def test_what_a_run_folder_says_is_shown_harmlessly(cli: Cli) -> None:
    for name in ("a", "b\x1b[2J\u202e[red]"):
        evil_run(name)
    for argv in (
        ["list"],
        ["show", "a"],
        ["compare", "a", "b\x1b[2J\u202e[red]"],
        ["list", "--json"],
        ["show", "a", "--json"],
    ):
        result = cli("runs", *argv)
        assert result.code == 0, result.err
        said = clean(result.out, result.err)
        if "--json" in argv:
            assert repr(EVIL)[1:-1] in repr(result.json)
        else:
            assert "[red]" in said and r"\x1b[2J" in said
    asked = cli("runs", "rm", "a", "b\x1b[2J\u202e[red]", "--dry-run")
    assert r"b\x1b[2J\u202e[red]" in clean(asked.err)


def test_errors_about_names_are_one_harmless_line(cli: Cli, core: Core, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": EVIL, "answer": {"a": EVIL}}) + "\n")
    for argv in (
        ["runs", "show", EVIL],
        ["doctor", "-p", EVIL],
        ["train", "-s", f"train.{EVIL}=1"],
        ["train", "-s", f"train.batch={json.dumps(EVIL)}"],
        ["baseline", "-p", "lab", "--dataset", "jsonl:x.jsonl"],
        ["eval", "--bridge", EVIL],
        [EVIL],
    ):
        result = cli(*argv)
        assert result.code == 2 and result.out == ""
        (line,) = clean(result.err).splitlines()
        assert line.startswith("error: ") and len(line) < 2100


def test_errors_tell_no_secret(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_AbCdEfGhIjKlMnOpQrSt")
    said = cli("doctor", "-p", "https://me:pass@host/hf_AbCdEfGhIjKlMnOpQrSt").err
    assert "me:pass" not in said and "hf_Ab" not in said and "https://***@host/***" in said


def test_a_missed_gate_names_its_data_set_harmlessly(cli: Cli, core: Core, bridge: Path, tmp_path: Path) -> None:
    name = "jsonl:x\x1b[2J\u202e.jsonl"
    (tmp_path / "x\x1b[2J\u202e.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')
    missed = cli("eval", "--bridge", bridge, "--dataset", name, "--split", "all", "--fail-under", ".95")
    assert missed.code == 3, missed.err
    assert r"gate not met on jsonl:x\x1b[2J\u202e.jsonl" in clean(missed.out, missed.err)


class Loud(Echo):
    """A model whose words, token by token, make an escape sequence."""

    def ask(self, text: str, on_token: Any) -> Any:
        answer = super().ask(text, lambda _: None)
        for char in EVIL:
            on_token(char)
        return SimpleNamespace(**{**vars(answer), "text": EVIL})

    def compare(self) -> dict[str, str]:
        return {"student": EVIL, "teacher": EVIL}


def test_an_answer_is_streamed_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    repl = Repl(Loud(bridge=1), Screen(), has_bridge=True, interactive=True)
    repl.run([f"hello {EVIL}", "/compare", f"/load {EVIL}", f"/set {EVIL} 3", f"/{EVIL}", "/undo"])
    captured = capsys.readouterr()
    said = clean(captured.out, captured.err)
    assert captured.out.startswith(r"\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202etxt") and MARKUP in captured.out
    assert r"taken back: hello \x1b]0;owned" in said
    assert repl.turns[0]["answer"] == EVIL  # what is recorded is what was said


def test_a_document_of_it_is_harmless_json(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(json=True).document({EVIL: [EVIL]})
    assert json.loads(clean(capsys.readouterr().out)) == {EVIL: [EVIL]}


def test_progress_and_tables_are_harmless_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich's own sequences apart, which colour and move."""
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}", Terminal())
    with Screen().progress() as meter:
        assert isinstance(meter, BarMeter)
        meter.start(f"read {EVIL}", 2)
        meter.update(1, loss=0.5, stage=EVIL)
        meter.note(EVIL)
        meter.finish()
    line = LineMeter(Screen(), every=0)
    line.start(EVIL, 1)
    line.update(1, stage=EVIL)
    Screen().table([EVIL, EVIL], [[EVIL, EVIL]], title=EVIL)
    Screen().pairs({EVIL: EVIL})
    Screen().heat_map([[1.0]], EVIL)
    said = "".join(stream.getvalue() for stream in (sys.stdout, sys.stderr) if isinstance(stream, Terminal))
    ours = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", said).replace("\r", "")
    assert "owned" in ours and "\x1b" not in clean(ours)
    assert "\x1b]" not in said and "[red]r[/red] [link=http://x]l[/link] :smile:" in ours


def test_completion_offers_no_name_that_steers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("talk.json", "tal\x1b[2J.json", "tal\u202e.json"):
        (tmp_path / name).touch()
    found = Completions().get_completions(Document("/load tal"), CompleteEvent())
    assert [completion.text for completion in found] == ["k.json"]


def test_a_line_without_an_end_is_refused(cli: Cli, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def isatty(self) -> bool:
            return False

        def readline(self, most: int) -> str:
            return "x" * most

    monkeypatch.setattr("sys.stdin", Endless())
    result = cli("chat", "-p", "lab", "-q")
    assert result.code == 2 and "a line of more than 1,048,576 characters" in result.err


def test_bytes_that_are_no_text_are_asked_as_text(cli: Cli, core: Core) -> None:
    result = cli("chat", "-p", "lab", "--prompt", "a\udcffb", "--system", "\udc80", "-q")
    assert result.code == 0 and result.out == "A?B!\n"


def test_a_report_in_a_linked_folder_is_refused(cli: Cli, core: Core, tmp_path: Path) -> None:
    evil_run("a")
    (tmp_path / "elsewhere").mkdir()
    Path("runs/a/metrics.jsonl").write_text('{"step": 1, "event": "train", "loss": 0.5}\n')
    assert cli("plot", "a").code == 0
    for path in Path("runs/a/figures").iterdir():
        path.unlink()
    Path("runs/a/figures").rmdir()
    Path("runs/a/figures").symlink_to(tmp_path / "elsewhere")
    result = cli("plot", "a")
    assert result.code == 2 and "figures leads out of its folder" in result.err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_bridge_that_is_a_link_out_of_its_run_is_refused(cli: Cli, core: Core, bridge: Path, tmp_path: Path) -> None:
    (bridge / "bridge.safetensors").rename(tmp_path / "other.safetensors")
    (bridge / "bridge.safetensors").symlink_to(tmp_path / "other.safetensors")
    result = cli("eval", "--bridge", bridge)
    assert result.code == 2 and "leads out of its folder" in result.err
    assert cli("eval", "--bridge", tmp_path / "other.safetensors", "--dataset", "relay").code == 0


@pytest.mark.parametrize(
    "harm", ['{"arms": 3}', '{"arms": {"a": {"accuracy": "x"}}}', "[" * 9999, '{"reports": [{}]}', "\x00"]
)
def test_pooling_a_broken_report_is_one_line(cli: Cli, tmp_path: Path, harm: str) -> None:
    write_json(tmp_path / "a.json", report("relay"))
    (tmp_path / "b.json").write_text(harm)
    result = cli("pool", "b.json", "a.json")
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert "b.json" in result.err and "unexpected" not in result.err
