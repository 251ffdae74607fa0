"""Every command on the pages is run, in the order in which a reader meets it, in one folder."""

from __future__ import annotations

import io
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from helmas_cli.app import main
from tests.pages import PAGES, Block, blocks

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
FEW_STEPS = ("steps=2", "eval_samples=2", "calibration_items=256")
SHORTER = {
    "train": [word for key in FEW_STEPS for word in ("-s", f"train.{key}")] + ["-s", "data.limit=300"],
    "eval": ["--limit", "6"],
    "baseline": ["--limit", "6"],
}


def test_every_command_on_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for block in blocks(page):
            if block.note and block.kind not in ("bash", "text"):
                Path(block.note).write_text(block.text, encoding="utf-8")
            elif block.kind == "bash" and block.note != "no-test":
                for line in block.commands():
                    run(line, block)
    assert {"first", "second", "small", "ridge"} <= {path.name for path in Path("runs").iterdir()}


def run(line: str, block: Block) -> None:
    """One line of a block: `helmas …`, alone, after `echo TEXT |`, or before `> FILE`."""
    words = shlex.split(line, comments=True)
    said = ""
    if words[0] == "echo" and words[2:3] == ["|"]:
        said, words = words[1] + "\n", words[3:]
    assert words[0] == "helmas", f"{block.place}: cannot be run here: {line}"
    argv = words[1:] + SHORTER.get(words[1], [])
    if block.note == "dry-run":
        stand_in(argv)
        argv.append("--dry-run")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.stdin", io.StringIO(said))
        code = main(argv)
    assert code == 0, f"{block.place}: {line}\n{err.getvalue()[-500:]}"
    assert out.getvalue().strip(), f"{block.place}: {line} printed nothing"


def stand_in(argv: list[str]) -> None:
    """A dry run trains nothing, so that the bridge it names is the first one's."""
    if "--bridge" in argv and not (named := Path(argv[argv.index("--bridge") + 1])).exists():
        shutil.copytree("runs/first", named)
