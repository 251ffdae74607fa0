"""Every command on the pages is run, in the order in which a reader meets it, in one folder."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
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
    told = [one for page in PAGES for block in blocks(page) for one in follow(block)]
    assert "\n".join(filter(None, told)) == ""
    assert {"first", "second", "small", "ridge"} <= {path.name for path in Path("runs").iterdir()}


def follow(block: Block) -> Iterator[str]:
    """What goes wrong when a reader does what the block says, line by line; "" where nothing does."""
    if block.kind == "bash" and block.note != "no-test":
        yield from (run(line, block) for line in block.commands())
    elif block.note and block.kind != "bash":
        Path(block.note).parent.mkdir(parents=True, exist_ok=True)
        Path(block.note).write_text(block.text, encoding="utf-8")


def run(line: str, block: Block) -> str:
    """One line of a block: `helmas …`, alone or after `echo TEXT |`."""
    words, said = shlex.split(line, comments=True), ""
    if words[0] == "echo" and words[2:3] == ["|"]:
        said, words = words[1] + "\n", words[3:]
    if words[0] != "helmas":
        return f"{block.place}: cannot be run here: {line}"
    argv, out, err = words[1:] + SHORTER.get(words[1], []), io.StringIO(), io.StringIO()
    dry = block.note == "dry-run"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.stdin", io.StringIO(said))
        with stand_in(argv) if dry else nullcontext():
            code = main([*argv, "--dry-run"] if dry else argv)
    if code or not out.getvalue().strip():
        return f"{block.place}: {line}\nexit code {code}, {err.getvalue()[-300:] or 'nothing printed'}"
    return ""


@contextmanager
def stand_in(argv: list[str]) -> Iterator[None]:
    """A dry run trains nothing: while it looks, the bridge that it names is the first one's."""
    named = Path(argv[argv.index("--bridge") + 1]) if "--bridge" in argv else Path("runs/first")
    made = not named.exists()
    if made:
        shutil.copytree("runs/first", named)
    yield
    if made:
        shutil.rmtree(named)
