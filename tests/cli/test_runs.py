"""Run folders, and the commands that list and show them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from helmas_core.errors import ConfigError
from helmas_core.json_files import to_json, write_json
from helmas_core.layering import load_config
from helmas_core.provenance import git_state
from helmas_core.runs import Run, check_run_path, create_run, default_run_path
from tests.cli.fakes import Cli, Core, report

pytestmark = pytest.mark.unit
LAB = load_config(["lab"])


def test_json_is_strict() -> None:
    value = {"a": float("nan"), "b": [float("inf"), Path("x")], 3: (True, None, 1, "é")}
    assert json.loads(to_json(value)) == {"a": None, "b": [None, "x"], "3": [True, None, 1, "é"]}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1})
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_manifest(tmp_path: Path) -> None:
    run = create_run(tmp_path / "x", LAB, ["helmas", "train"], profiles_text="[pair]\n")
    manifest = run.manifest
    assert manifest is not None
    assert (manifest["argv"], manifest["status"], manifest["seed"]) == (["helmas", "train"], "running", LAB.train.seed)
    assert {"python", "torch", "transformers"} <= set(manifest["versions"])
    run.note(hardware="cpu")
    run.finish("done")
    assert run.manifest is not None
    assert (run.manifest["status"], run.manifest["hardware"]) == ("done", "cpu")
    assert run.manifest["finished"] >= run.manifest["started"]
    assert load_config(base=run.config) == LAB


def test_no_repository_no_revision(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None


def test_revision_and_dirty_flag(tmp_path: Path) -> None:
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "first"]
    for words in (["init", "-q"], commit):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean["revision"]), clean["dirty"]) == (40, False)
    (tmp_path / "new").touch()
    assert git_state(tmp_path) == {**clean, "dirty": True}


def test_which_folders_are_refused(tmp_path: Path) -> None:
    check_run_path(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_run_path(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a run folder"):
        check_run_path(tmp_path / "file", overwrite=True)
    create_run(tmp_path / "run", LAB)
    with pytest.raises(ConfigError, match="--resume"):
        create_run(tmp_path / "run", LAB)
    check_run_path(tmp_path / "run", resume=True)
    check_run_path(tmp_path / "run", overwrite=True)


def test_resuming_keeps_what_is_there(tmp_path: Path) -> None:
    run = create_run(tmp_path / "x", LAB)
    run.log({"step": 1})
    run.finish("interrupted")
    again = create_run(tmp_path / "x", LAB, resume=True)
    assert again.metrics.read_text() == '{"step": 1}\n'
    assert again.manifest is not None
    assert (again.manifest["status"], len(again.manifest["resumed"])) == ("running", 1)
    other = load_config(["lab"], ["bridge.projector_depth=1"])
    with pytest.raises(ConfigError, match=r"bridge\.projector_depth"):
        create_run(tmp_path / "x", other, resume=True)


def test_default_names(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = default_run_path(tmp_path, "lab")
        path.mkdir()
        names.append(path.name)
    assert names == ["lab", "lab-2", "lab-3"]


def test_list_and_show(cli: Cli, core: Core, tmp_path: Path) -> None:
    assert cli("runs", "list").out == ""
    assert cli("train", "-p", "lab", "-o", "runs/a").code == 0
    assert cli("train", "-p", "lab", "-o", "runs/b", "--dataset", "relay").code == 0
    os.utime(tmp_path / "runs/a/manifest.json", (1, 1))
    Run(tmp_path / "runs/a").write_report({"reports": [report("relay"), report("arithmetic")]})
    rows = cli("runs", "list", "--json").json["runs"]
    assert [row["name"] for row in rows] == ["b", "a"]
    assert rows[1]["accuracy"] == {"relay": 0.9, "arithmetic": 0.9}
    assert rows[0]["pair"] == "lab:teacher → lab:student"
    assert [row["name"] for row in cli("runs", "list", "--dataset", "relay", "--json").json["runs"]] == ["b"]
    assert len(cli("runs", "list", "--limit", "1", "--json").json["runs"]) == 1
    assert "relay .900, arithmetic .900" in cli("runs", "list").out
    shown = cli("runs", "show", "a")
    assert "arithmetic · test · n = 40" in shown.out
    assert cli("runs", "show", "runs/b", "--json").json["manifest"]["status"] == "done"
    unknown = cli("runs", "show", "c")
    assert (unknown.code, unknown.out) == (2, "")
    assert 'no run "c"' in unknown.err


def test_a_broken_run_is_listed_all_the_same(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/manifest.json").write_text("{")
    assert "unreadable" in cli("runs", "list").out
    assert cli("runs", "show", "a").code == 0


def two_runs(cli: Cli) -> None:
    """runs/a and runs/b, which differ in one option and by one item of three."""
    assert cli("train", "-p", "lab", "-o", "runs/a").code == 0
    assert cli("train", "-p", "lab", "-o", "runs/b", "-s", "bridge.projector_depth=1").code == 0
    for name, right in (("a", (False, False, True)), ("b", (True, False, True))):
        rows = [
            {"task": "relay", "id": str(i), "question": f"q{i}", "arms": {"bridge": {"right": r}}}
            for i, r in enumerate(right)
        ]
        other = {**rows[0], "id": "9", "question": f"only {name}"}
        text = "\n".join(map(json.dumps, [*rows, other])) + '\n{"task": "rel'
        Path(f"runs/{name}/items.jsonl").write_text(text)


def test_compare(cli: Cli, core: Core) -> None:
    two_runs(cli)
    found = cli("runs", "compare", "a", "b", "--json").json
    assert found["differences"] == {"bridge.projector_depth": [2, 1]}
    (paired,) = found["paired"]
    assert (paired["run"], paired["against"], paired["n"], paired["delta"]) == ("b", "a", 3, pytest.approx(0.3333))
    assert found["runs"][1]["scores"][0]["arms"]["bridge"] == 0.9
    shown = cli("runs", "compare", "a", "b")
    assert shown.code == 0
    assert "projector_depth" in shown.out
    assert "b - a" in shown.out
    alone = cli("runs", "compare", "a")
    assert (alone.code, alone.out) == (2, "")
    assert "name two or more" in alone.err


def test_a_validation_score_is_not_shown_as_a_test_score(cli: Cli, core: Core) -> None:
    two_runs(cli)
    path = Path("runs/b/report.json")
    document = json.loads(path.read_text())
    document["eval"] |= {"split": "validation", "n": 12}
    path.write_text(json.dumps(document))
    listed = cli("runs", "list").out
    assert listed.count("relay .900 (validation)") == 1 and listed.count("relay .900") == 2
    shown = cli("runs", "compare", "a", "b").out
    tables = re.findall(r"relay · (\w+)\s+arm +a +b\s+─+\s+n +(\d+)", shown)
    assert tables == [("test", "40"), ("validation", "12")]


def test_rm_asks_first_and_needs_somebody_to_ask(cli: Cli, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    two_runs(cli)
    assert "give --yes" in cli("runs", "rm", "a").err
    monkeypatch.setattr("sys.stdin", Typed("n\n"))
    assert cli("runs", "rm", "a").code == 0
    assert cli("runs", "rm", "a", "--yes", "--dry-run", "--json").json["removed"] == []
    assert Path("runs/a/bridge.safetensors").exists()
    monkeypatch.setattr("sys.stdin", Typed("y\n"))
    assert cli("runs", "rm", "a", "runs/a").out == "removed runs/a\n"
    assert not Path("runs/a").exists()
    assert Path("runs/b/bridge.safetensors").exists()


class Typed(io.StringIO):
    """A terminal at which somebody types."""

    def isatty(self) -> bool:
        return True


def test_rm_takes_no_more_than_what_a_run_wrote(cli: Cli, core: Core, tmp_path: Path) -> None:
    two_runs(cli)
    outside = tmp_path / "outside"
    (outside / "figures").mkdir(parents=True)
    for path in (outside / "dear.txt", outside / "figures/dear.png", Path("runs/a/notes.txt")):
        path.write_text("dear")
    Path("runs/a/figures").symlink_to(outside / "figures")
    Path("runs/a/report.html").symlink_to(outside / "dear.txt")
    Path("runs/a/checkpoints").mkdir(exist_ok=True)
    Path("runs/a/checkpoints/step").symlink_to(outside)
    assert cli("runs", "rm", "a", "--yes", "--json").json["left"] == {"runs/a": ["runs/a/notes.txt"]}
    assert [path.name for path in Path("runs/a").iterdir()] == ["notes.txt"]
    assert (outside / "dear.txt").read_text() == (outside / "figures/dear.png").read_text() == "dear"


def test_rm_refuses_links_and_folders_of_others_before_anything_is_gone(cli: Cli, core: Core) -> None:
    two_runs(cli)
    Path("runs/link").symlink_to("b", target_is_directory=True)
    Path("theirs/figures").mkdir(parents=True)
    for name in ("manifest.json", "config.json"):
        Path("theirs", name).write_text('{"name": "an extension of a browser"}')
    for name, said in (("runs/link", "a link"), ("theirs", "not a run folder"), ("c", 'no run "c"')):
        result = cli("runs", "rm", "a", name, "--yes")
        assert result.code == 2
        assert said in result.err
    assert Path("runs/a/bridge.safetensors").exists() and Path("runs/b/bridge.safetensors").exists()
    assert Path("theirs/manifest.json").exists()


def test_plot_draws_one_run_or_several(cli: Cli, core: Core) -> None:
    two_runs(cli)
    for name in ("a", "b"):
        rows = [{"step": i, "event": "train", "loss": 1.0 / i} for i in range(1, 4)]
        rows.append({"step": 3, "event": "validation", "bridge": 0.5, "student": 0.1})
        Path(f"runs/{name}/metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"ste')
    assert cli("plot", "a").out == "runs/a/figures/curves.png\n"
    assert cli("plot", "a", "b", "-o", "both", "--json").json["figure"] == "both/curves.png"
    for path in ("runs/a/figures/curves.png", "both/curves.png"):
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert cli("plot", "a", "a").out == "runs/a/figures/curves.png\n"
    Path("full").write_text("a file, no folder")
    refused = cli("plot", "a", "-o", "full")
    assert refused.code == 1 and "full/curves.png: cannot be written" in refused.err
    Path("runs/a/metrics.jsonl").unlink()
    assert "nothing was logged" in cli("plot", "a").err


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_made(
    cli: Cli, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helmas_core.training.tracking.find_spec", lambda name: None)
    result = cli("train", "-p", "lab", "-o", "runs/a", "-s", "train.tracker=trackio")
    assert (result.code, core.calls) == (2, [])
    assert 'pip install "helmas[trackio]"' in result.err
    assert not Path("runs").exists()


def test_a_report_is_not_pooled_with_itself(cli: Cli, core: Core) -> None:
    Path("one.json").write_text("{}")
    result = cli("pool", "one.json", "./one.json")
    assert result.code != 0 and "named twice" in result.err
