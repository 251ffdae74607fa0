"""Sharing by folder: what goes out, what never does, what a card says, and that nothing comes back but what went."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from helmas_cli.app import main
from helmas_core.bridges.artefact import load_bridge, read_metadata
from helmas_core.errors import CheckpointError, ConfigError, DataError
from helmas_core.models.pair import Pair
from helmas_core.sharing.folder import Folder, arriving, shareable
from helmas_core.sharing.parcel import Parcel, pack
from tests.cli.fakes import Result
from tests.shared import PRIVATE, make_run

pytestmark = pytest.mark.unit
HOSTILE = "a|b`<script>alert(1)</script>\n# x\r---\n\x1b[2J"


@pytest.fixture
def run(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "made", unequal)


def command(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Result:
    code = main(list(map(str, argv)))
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def names_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents(parcel: Parcel) -> dict[str, bytes]:
    return {name: one if isinstance(one, bytes) else one.read_bytes() for name, one in parcel.files.items()}


def test_a_bridge_comes_back_as_it_went(run: Path, unequal: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "push", "made", "./shared", "--yes", "-q").out == "shared\n"
    pulled = command(capsys, "pull", "./shared", "-o", "here", "--json").json
    assert [one["name"] for one in pulled["files"]] == [
        "bridge.safetensors", "README.md", "report.json", "config.json", *(f for f in names_under(Path("here"))
        if f.startswith("figures/")),
    ]  # fmt: skip
    assert {one["name"]: one["bytes"] for one in pulled["files"]} == {
        name: (Path("here") / name).stat().st_size for name in names_under(Path("here"))
    }
    for name in names_under(Path("shared")):
        assert (Path("here") / name).read_bytes() == (Path("shared") / name).read_bytes()
    ours, theirs = (load_bridge(folder / "bridge.safetensors", unequal) for folder in (run, Path("here")))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours.state_dict()[name], weights) for name, weights in theirs.state_dict().items())


def test_nothing_private_goes_out(run: Path, unequal: Pair) -> None:
    files = contents(pack(run / "bridge.safetensors", "o/n"))
    assert not any(shareable(name) for name in ("manifest.json", "profile.toml", "report.html", "checkpoints/x"))
    assert all(shareable(name) for name in files)
    assert "items.jsonl" not in files and "figures/accuracy-secret.png" not in files
    for name, content in files.items():
        assert [word for word in PRIVATE if word in content] == [], name
    assert json.loads(files["config.json"])["data"]["dataset"] == "gsm8k,jsonl:mine.jsonl"
    with_items = contents(pack(run / "bridge.safetensors", "o/n", items=True))["items.jsonl"]
    assert b"Who is Kara" in with_items and b"/home" not in with_items


def test_a_report_on_fewer_teachers_is_on_another_bridge(run: Path) -> None:
    written = json.loads((run / "report.json").read_text())
    written["pair"] = {side: member for side, member in written["pair"].items() if side != "teacher"}
    (run / "report.json").write_text(json.dumps(written))
    with pytest.raises(DataError, match="teacher differs"):
        pack(run / "bridge.safetensors", "o/n")


def test_what_the_bridge_learnt_stays_known(run: Path, tmp_path: Path) -> None:
    Folder(tmp_path / "shared").send(pack(run / "bridge.safetensors", "./shared").files)
    document = read_metadata(tmp_path / "shared" / "bridge.safetensors")
    assert document["training"]["hashes"] == "0123456789abcdef"
    assert document["config"]["pair"]["teacher"] == "Qwen2.5-1.5B"
    assert document["pair"]["teacher"]["fingerprint"] == read_metadata(run / "bridge.safetensors")["pair"]["teacher"][
        "fingerprint"
    ]  # fmt: skip


def test_models_get_their_public_names(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = command(capsys, "push", "made", "./s", "--yes", "-s", "pair.teacher=Qwen/Qwen2.5-1.5B")
    assert "lies on this machine" not in said.err
    assert read_metadata(Path("s/bridge.safetensors"))["config"]["pair"]["teacher"] == "Qwen/Qwen2.5-1.5B"
    card = ModelCard.load("s/README.md")
    assert card.data.to_dict()["base_model"] == ["Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-0.5B"]
    assert "pair.teacher=DIR" not in card.text
    wrong = command(capsys, "push", "made", "./s", "--yes", "-s", "train.steps=3")
    assert wrong.code == 2 and "train.steps" in wrong.err and "pair.teacher" in wrong.err


def test_a_card_says_what_there_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = command(capsys, "push", "made", "./shared", "--yes")
    assert "-s pair.teacher=OWNER/NAME" in said.err
    card = ModelCard.load("shared/README.md")
    data, text = card.data.to_dict(), card.text
    assert data["library_name"] == "helmas" and "helmas" in data["tags"] and "license" not in data
    assert data["base_model"] == ["Qwen/Qwen2.5-0.5B"]
    assert data["datasets"] == ["openai/gsm8k"]
    (result,) = data["model-index"][0]["results"]
    assert {one["name"]: one["value"] for one in result["metrics"]} == {"bridge": 0.9, "bridge − deranged": 0.7}
    assert "helmas chat --bridge ./shared -s pair.teacher=DIR\n" in text
    assert r"| bridge | .900 | \[.100, .990\] | 40 |" in text
    assert "trained with seed 3" in text.lower() and "content effect +.70" in text
    assert "parameters: 1,234,567" in text and "gsm8k,jsonl:mine.jsonl, train, 160 items" in text
    assert "0 are among the 160" in text and "other tokens on 1 of 40 items (1 ties" in text
    assert (Path("shared") / "figures" / "accuracy-jsonl-mine.png").read_bytes().startswith(b"\x89PNG")
    assert "figures/accuracy-jsonl-mine.png" in text


def test_a_card_without_a_report_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.json").unlink()
    assert "no report.json" in command(capsys, "push", "made", "./shared", "--yes").err
    assert "Not evaluated yet." in Path("shared/README.md").read_text()
    assert not Path("shared/report.json").exists()


def test_hostile_names_are_text(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verdict = {"text": HOSTILE, "level": HOSTILE}
    arms = {HOSTILE: {"accuracy": 0.5, "ci": [0.1, 0.9], "n": 4}, "bridge": {"accuracy": 0.5, "ci": [0, 1], "n": 4}}
    run = make_run(tmp_path / "run", unequal, dataset=HOSTILE, verdict=verdict, arms=arms, warnings=[HOSTILE])
    document = contents(pack(run / "bridge.safetensors", "o/n"))
    text = document["README.md"].decode()
    assert "<script>" not in text and "\x1b" not in text and "\r" not in text
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# n"]
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4, 5}  # of the pair and the contrasts, and of the arms
    card = ModelCard(text)
    (result,) = card.data.to_dict()["model-index"][0]["results"]
    assert "\x1b" not in result["dataset"]["name"] and "\n" not in result["dataset"]["name"]
    assert card.text.lstrip().startswith("# n")
    assert "helmas eval --bridge o/n -s pair.teacher=DIR\n" in text  # the data set's name is no part of a command
    assert all(shareable(name) for name in document)


def test_a_report_on_another_bridge_is_refused(run: Path) -> None:
    written = json.loads((run / "report.json").read_text())
    written["pair"]["student"]["fingerprint"] = "another"
    (run / "report.json").write_text(json.dumps(written))
    with pytest.raises(DataError, match="another bridge: student differs"):
        pack(run / "bridge.safetensors", "o/n")


@pytest.mark.parametrize("text", ["{", '{"arms": 3}', '{"dataset": "relay", "arms": {"bridge": {}}}'])
def test_a_broken_report_is_refused(run: Path, text: str) -> None:
    (run / "report.json").write_text(text)
    with pytest.raises(DataError, match=r"report\.json"):
        pack(run / "bridge.safetensors", "o/n")


def test_what_a_person_added_to_a_card_stays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "push", "made", "./shared", "--yes")
    path = Path("shared/README.md")
    path.write_text(path.read_text().replace("library_name: helmas", "library_name: helmas\nlicense: apache-2.0"))
    (path.parent / "figures" / "old.png").write_bytes(b"")
    (path.parent / "NOTICE").write_text("mine")
    command(capsys, "push", "made", "./shared", "--yes")
    assert ModelCard.load(path).data.to_dict()["license"] == "apache-2.0"
    assert not (path.parent / "figures" / "old.png").exists()
    assert (path.parent / "NOTICE").read_text() == "mine"


@pytest.mark.parametrize("way", [("push", "made", "./used", "--yes"), ("pull", "./shared", "-o", "used")])
def test_a_used_folder_is_refused(run: Path, capsys: pytest.CaptureFixture[str], way: tuple[str, ...]) -> None:
    command(capsys, "push", "made", "./shared", "--yes")
    used = Path("used")
    used.mkdir()
    (used / "thesis.txt").write_text("years")
    said = command(capsys, *way)
    assert (said.code, said.out) == (2, "") and "not empty" in said.err and len(said.err.splitlines()) == 1
    assert names_under(used) == ["thesis.txt"]
    (used / "thesis.txt").rename(used / "manifest.json")
    shutil.copy(run / "bridge.safetensors", used)
    (used / "README.md").touch()
    assert "a run folder" in command(capsys, *way).err
    assert names_under(used) == ["README.md", "bridge.safetensors", "manifest.json"]


def test_nothing_is_left_half_written(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(capsys, "push", "made", "./shared", "--yes")
    before = {name: (Path("shared") / name).read_bytes() for name in names_under(Path("shared"))}
    copy, count = shutil.copyfile, 0

    def full(source: Path, place: Path) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        copy(source, place)

    with monkeypatch.context() as broken:
        broken.setattr("helmas_core.sharing.folder.shutil.copyfile", full)
        said = command(capsys, "pull", "./shared", "-o", "new")
    assert said.code == 1 and "new: cannot be written (No space left on device)" in said.err
    assert not Path("new").exists() and not list(Path().glob(".partial-*"))
    assert before == {name: (Path("shared") / name).read_bytes() for name in names_under(Path("shared"))}


def test_a_broken_bridge_replaces_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "push", "made", "./shared", "--yes")
    command(capsys, "pull", "./shared", "-o", "here")
    whole = Path("here/bridge.safetensors").read_bytes()
    Path("shared/bridge.safetensors").write_bytes(whole[:-1])
    Path("shared/config.json").write_text("{}")
    said = command(capsys, "pull", "./shared", "-o", "here")
    assert (said.code, ".partial" in said.err) == (2, False)
    assert said.err.startswith("error: bridge.safetensors: not a whole safetensors file")
    assert Path("here/bridge.safetensors").read_bytes() == whole and Path("here/config.json").read_text() != "{}"


@pytest.mark.parametrize("name", ["report.json", "figures", "figures/accuracy-jsonl-mine.png"])
def test_links_are_not_followed(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    command(capsys, "push", "made", "./shared", "--yes")
    path, outside = Path("shared") / name, Path("outside").absolute()
    shutil.move(path, outside)
    path.symlink_to(outside)
    said = command(capsys, "pull", "./shared", "-o", "here")
    assert said.code == 2 and "a link" in said.err and not Path("here").exists()


def test_items_that_lie_elsewhere_or_are_none_are_not_shared(run: Path) -> None:
    items, whole = run / "items.jsonl", (run / "items.jsonl").read_text()
    for text in (whole + '{"task":', whole + "{}\n", "[" * 10**5):
        items.write_text(text)
        with pytest.raises(DataError, match="not items of helmas eval"):
            pack(run / "bridge.safetensors", "o/n", items=True)
    (outside := run.parent / "outside.jsonl").write_text(whole)
    items.unlink()
    items.symlink_to(outside.absolute())
    with pytest.raises(DataError, match="leads out of its folder"):
        pack(run / "bridge.safetensors", "o/n", items=True)


def test_figures_do_not_go_through_a_link(run: Path, tmp_path: Path) -> None:
    files = pack(run / "bridge.safetensors", "./shared").files
    Folder(tmp_path / "shared").send(files)
    shutil.move(tmp_path / "shared" / "figures", tmp_path / "elsewhere")
    (tmp_path / "shared" / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="lie elsewhere"):
        Folder(tmp_path / "shared").send(files)


def test_only_files_of_a_bridge_arrive(run: Path, tmp_path: Path) -> None:
    def arrive(name: str) -> None:
        with arriving(tmp_path / "new") as staged:
            (staged / name).parent.mkdir(exist_ok=True)
            shutil.copy(run / "bridge.safetensors", staged / name)

    for name in ("model.pkl", "figures/x.svg", "sub/report.json"):
        with pytest.raises(CheckpointError, match="no file of a shared bridge"):
            arrive(name)
    with pytest.raises(CheckpointError, match=r"no bridge\.safetensors"):
        arrive("config.json")
    assert not (tmp_path / "new").exists()
    wrong = ("../x", "/etc/passwd", "figures/../../x.png", "figures/a/b.png", "figures/.x.png", "a\nREADME.md", "x")
    assert not any(map(shareable, wrong))


def test_off_a_terminal_it_asks_for_yes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in ("./shared", "owner/name"):
        said = command(capsys, "push", "made", where)
        assert said.code == 2 and "--yes" in said.err and not Path("shared").exists()


def test_it_asks_first(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    said = command(capsys, "push", "made", "./shared")
    assert said.code == 0 and said.out == "" and not Path("shared").exists()
    assert "README.md" in said.err and "files" in said.err and "in the folder shared? [y/N]" in said.err
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert command(capsys, "push", "made", "./shared", "-q").out == "shared\n"


def test_a_dry_run_writes_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names_under(tmp_path)
    found = command(capsys, "push", "made", "owner/name", "--dry-run", "--json").json
    assert found["dry_run"] and found["target"] == "owner/name"
    assert found["bytes"] == sum(one["bytes"] for one in found["files"])
    assert command(capsys, "pull", "owner/name", "--dry-run").out == "owner/name to runs/name\n"
    assert names_under(tmp_path) == before


def test_a_shared_bridge_is_weights_and_one_string(run: Path, tmp_path: Path) -> None:
    Folder(tmp_path / "shared").send(pack(run / "bridge.safetensors", "./shared").files)
    with safe_open(tmp_path / "shared" / "bridge.safetensors", framework="pt") as file:
        assert list(file.metadata()) == ["helmas"]
