"""`helmas train` over the fake core: run folder, streams, plan, resume, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helmas_core.layering import load_config
from helmas_core.progress import Stopped
from helmas_core.runs import Run
from tests.cli.fakes import Cli, Core

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
TRAIN = ("train", "-p", "lab", "-o", "runs/x")


def test_result_on_stdout_and_progress_on_stderr(cli: Cli, core: Core) -> None:
    result = cli(*TRAIN)
    assert result.code == 0
    assert "runs/x/bridge.safetensors" in result.out
    assert "deranged" in result.out
    assert "train 2/2 · loss 0.5 · 1,000 tokens/s · ETA 0:00" in result.err.splitlines()
    assert "device cpu" in result.err.splitlines()


def test_json_is_one_document_and_quiet_is_quiet(cli: Cli, core: Core) -> None:
    result = cli(*TRAIN, "--json", "-q")
    assert result.json["parameters"] == 7
    assert result.json["eval"]["contrasts"]["bridge-deranged"]["p"] is None  # nan is no JSON
    assert result.err == ""


def test_run_folder(cli: Cli, core: Core, tmp_path: Path) -> None:
    assert cli(*TRAIN, "-s", "train.batch=4", "--seed", "7", "--limit", "9", "--dataset", "relay").code == 0
    run = Run(tmp_path / "runs" / "x")
    config, _ = core.calls[-1][1]
    assert (config.train.batch, config.train.seed, config.data.limit) == (4, 7, 9)
    assert load_config(base=run.config) == config
    assert run.manifest is not None
    assert (run.manifest["status"], run.manifest["seed"]) == ("done", 7)
    assert "[pair]" in (run.path / "profile.toml").read_text()
    assert run.report is not None
    assert run.report["steps"] == 2


def test_default_folder_is_named_after_the_profile(cli: Cli, core: Core, tmp_path: Path) -> None:
    assert [cli("train", "-p", "lab").code for _ in range(2)] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["lab", "lab-2"]


def test_a_mix_is_shown_and_its_names_are_checked_first(cli: Cli, core: Core) -> None:
    result = cli(*TRAIN, "--dry-run", "-s", "data.mix.relay=3", "-s", 'data.mix={"jsonl:a/b.jsonl" = 1}')
    assert (result.code, "no such file" in result.err) == (2, True)
    result = cli(*TRAIN, "--dry-run", "-s", "data.mix.relay=3", "-s", "data.mix.arithmetic=1")
    assert "relay 75.0%, arithmetic 25.0%" in result.out
    assert "mix" not in cli(*TRAIN, "--dry-run").out
    wrong = cli(*TRAIN, "--dry-run", "-s", "data.mix.rely=3")
    assert (wrong.code, 'did you mean "relay"?' in wrong.err) == (2, True)


def test_dry_run_prints_the_plan_and_writes_nothing(cli: Cli, core: Core, tmp_path: Path) -> None:
    result = cli(*TRAIN, "--dry-run", "-s", "train.steps=50")
    assert result.code == 0
    assert [word for word in ("lab:teacher", "50", "relay,arithmetic", "runs/x") if word not in result.out] == []
    document = cli(*TRAIN, "--dry-run", "--json").json
    assert (document["dry_run"], document["dataset"]) == (True, "relay,arithmetic")
    assert document["config"]["pair"]["student"] == "lab:student"
    assert list(tmp_path.iterdir()) == []
    assert core.calls == []


def test_resume_takes_the_configuration_of_the_run(cli: Cli, core: Core) -> None:
    assert cli(*TRAIN, "-s", "train.batch=4").code == 0
    assert cli("train", "-o", "runs/x", "--resume").code == 0
    config, resumed = core.calls[-1][1]
    assert (config.train.batch, config.pair.teacher, resumed) == (4, "lab:teacher", True)


def test_resume_refuses_another_configuration(cli: Cli, core: Core) -> None:
    assert cli(*TRAIN).code == 0
    result = cli(*TRAIN, "--resume", "-s", "train.batch=4")
    assert result.code == 2
    assert "train.batch" in result.err
    assert cli("train", "-p", "lab", "-o", "runs/y", "--resume").code == 2
    assert cli("train", "-p", "lab", "--resume").code == 2
    assert cli(*TRAIN, "--resume", "--overwrite").code == 2


def test_overwrite_replaces_the_run_only(cli: Cli, core: Core, tmp_path: Path) -> None:
    assert cli(*TRAIN).code == 0
    folder = tmp_path / "runs" / "x"
    (folder / "notes.txt").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "old.png").write_bytes(b"")
    assert cli(*TRAIN, "--overwrite").code == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "figures").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_an_interrupt_after_the_last_step_leaves_a_whole_run(cli: Cli, core: Core, tmp_path: Path) -> None:
    core.hook = lambda _config, _run, progress: getattr(progress, "stop").set()  # noqa: B009
    assert cli(*TRAIN, "-s", "train.steps=2").code == 0
    assert _status(tmp_path) == "done"
    assert cli(*TRAIN, "--overwrite", "-s", "train.steps=3").code == 130
    assert _status(tmp_path) == "interrupted"


def test_an_interrupt_before_the_first_step_is_told_and_resumed(cli: Cli, core: Core, tmp_path: Path) -> None:
    def asked(_config: object, _run: object, progress: object) -> None:
        raise Stopped

    core.hook = asked
    assert cli(*TRAIN).code == 130
    assert _status(tmp_path) == "interrupted"
    core.hook = None
    assert cli(*TRAIN, "--resume").code == 0


INTERRUPTED = """
import sys, time
import pytest
from pathlib import Path
from tests.cli.conftest import core as _core
from tests.cli.fakes import Core
from helmas_cli.app import main

def wait(config, run, progress):
    run.log({"step": 1})
    print("READY", file=sys.stderr, flush=True)
    for _ in range(500):
        if progress.stop_requested() and not STUBBORN:
            return
        if progress.stop_requested() and not Path("asked").exists():
            Path("asked").touch()
        time.sleep(0.01)

STUBBORN = bool(int(sys.argv[1]))
patch = pytest.MonkeyPatch()
core = _core.__wrapped__(patch)
core.hook = wait
sys.exit(main(["train", "-p", "lab", "-o", "runs/x"]))
"""


def _start(folder: Path, stubborn: bool, number: signal.Signals) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), str(int(stubborn))]
    process = subprocess.Popen(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    while "READY" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    return process


def _status(folder: Path) -> str:
    return json.loads((folder / "runs" / "x" / "manifest.json").read_text())["status"]


SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@SIGNALS
def test_one_interrupt_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = _start(tmp_path, stubborn=False, number=number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Ctrl-C again stops now" in err
    assert "Traceback" not in err
    assert _status(tmp_path) == "interrupted"
    assert (tmp_path / "runs" / "x" / "bridge.safetensors").exists()


@SIGNALS
def test_two_interrupts_stop_now(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = _start(tmp_path, stubborn=True, number=number)
    for _ in range(500):
        if (tmp_path / "asked").exists():
            break
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert _status(tmp_path) == "interrupted"
    assert not (tmp_path / "runs" / "x" / "lock.json").exists()
    assert not (tmp_path / "runs" / "x" / "bridge.safetensors").exists()
