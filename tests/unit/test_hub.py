"""The hub's own client against a stand-in on this machine: nothing asks any other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, close_session, constants

from helmas_cli.app import main
from helmas_cli.load import bridge_file
from helmas_cli.ui import Screen
from helmas_core.bridges.artefact import load_bridge
from helmas_core.errors import HubError, UnreachableError
from helmas_core.models.pair import Pair
from tests.cli.fakes import Result
from tests.hub import TOKEN, Repo, StandIn, running
from tests.shared import PRIVATE, make_run

pytestmark = pytest.mark.unit


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """The client set on the stand-in, logged in; looking for any other machine fails the test."""
    find, elsewhere = socket.getaddrinfo, list[Any]()

    def near(host: Any, *args: Any, **more: Any) -> Any:
        if host != "127.0.0.1":
            elsewhere.append(host)
            raise socket.gaierror("no network in tests")
        return find(host, *args, **more)

    close_session()
    with running() as server:
        pages = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": pages,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        settings |= {"HF_TOKEN_PATH": str(tmp_path / "none"), "HF_HUB_CACHE": str(tmp_path / "hf")}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(socket, "getaddrinfo", near)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield server
        close_session()
        assert elsewhere == [] and server.unknown == []


@pytest.fixture
def run(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "made", unequal)


def command(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Result:
    code = main(list(map(str, argv)))
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def one_error(result: Result, *words: str, code: int = 1) -> None:
    assert (result.code, result.out) == (code, "")
    line = result.err.splitlines()[-1]
    assert line.startswith("error: ") and [word for word in words if word not in line] == []
    assert "Traceback" not in result.err


def test_a_bridge_goes_up_and_comes_down(
    hub: StandIn, run: Path, unequal: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = command(capsys, "push", "made", "owner/name", "--yes", "--json", "-q").json
    repo = hub.repos["owner/name"]
    files = repo.branches["main"]
    assert sent["where"] == f"{hub.url}/owner/name" and sent["commit"] == repo.commit("main")
    assert {one["name"]: one["bytes"] for one in sent["files"]} == {name: len(c) for name, c in files.items()}
    assert any("git/info/lfs" in line for line in hub.asked)  # large files by the way of large files
    assert not repo.private
    for name, content in files.items():
        assert [word for word in PRIVATE if word in content] == [], name
    assert "helmas chat --bridge owner/name" in files["README.md"].decode()
    assert ModelCard(files["README.md"].decode()).data.to_dict()["model-index"]
    command(capsys, "push", "made", "./shared", "--yes", "-q")  # a folder gets the same, but for its address
    folder = {p.relative_to("shared").as_posix(): p.read_bytes() for p in Path("shared").rglob("*") if p.is_file()}
    assert folder.keys() == files.keys()
    assert [name for name, content in folder.items() if content != files[name]] == ["README.md"]
    got = command(capsys, "pull", f"{hub.url}/owner/name", "-o", "here", "--json", "-q").json
    assert got["commit"] == sent["commit"] and got["source"] == "owner/name"
    assert {p.relative_to("here").as_posix(): p.read_bytes() for p in Path("here").rglob("*") if p.is_file()} == files
    ours, theirs = (load_bridge(folder / "bridge.safetensors", unequal) for folder in (run, Path("here")))
    assert all(torch.equal(ours.state_dict()[name], weights) for name, weights in theirs.state_dict().items())


def test_a_private_repository_is_private(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "push", "made", "owner/name", "--yes", "--private").code == 0
    assert hub.repos["owner/name"].private and len(hub.created) == 1
    assert command(capsys, "pull", "owner/name", "-q").out == "runs/name\n"
    hub.repos["owner/open"] = Repo()
    one_error(command(capsys, "push", "made", "owner/open", "--yes", "--private"), "public", code=2)
    assert hub.repos["owner/open"].branches["main"] == {}


def test_a_second_push_replaces_what_was_shared(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "push", "made", "owner/name", "--yes")
    files = hub.repos["owner/name"].branches["main"]
    files["README.md"] = files["README.md"].replace(b"library_name", b"license: mit\nlibrary_name", 1)
    files |= {"figures/old.png": b"x", "LICENSE": b"mine"}
    assert command(capsys, "push", "made", "owner/name", "--yes").code == 0
    assert "figures/old.png" not in files and files["LICENSE"] == b"mine"
    assert ModelCard(files["README.md"].decode()).data.to_dict()["license"] == "mit"
    assert len(hub.created) == 1


def test_a_branch_of_its_own(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "push", "made", "owner/name", "--yes", "--revision", "v2").out.endswith("/tree/v2\n")
    branches = hub.repos["owner/name"].branches
    assert branches["main"] == {} and "bridge.safetensors" in branches["v2"]
    one_error(command(capsys, "pull", "owner/name"), "holds no bridge.safetensors")
    assert command(capsys, "pull", "owner/name", "--revision", "v2").code == 0
    one_error(command(capsys, "pull", "owner/name@v3"), 'no revision "v3"', "branch")


def test_a_repository_of_something_else_is_left_alone(
    hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["owner/model"] = Repo(branches={"main": {"model.safetensors": b"years", "README.md": b"mine"}})
    one_error(command(capsys, "push", "made", "owner/model", "--yes"), "something else", "model.safetensors", code=2)
    assert hub.repos["owner/model"].branches["main"].keys() == {"model.safetensors", "README.md"}


@pytest.mark.parametrize("status", [401, 403])
def test_without_the_right_there_is_one_line(
    hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    hub.denied = status
    one_error(command(capsys, "push", "made", "owner/name", "--yes"), f"not allowed ({status})", "hf auth login")
    assert hub.repos == {}


def test_what_is_not_there_is_one_line(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (("pull", "owner/gone"), ("eval", "--bridge", "owner/gone"), ("pool", "owner/gone", "owner/lost")):
        one_error(command(capsys, *argv), "owner/gone", "no such repository", "HF_TOKEN")
    hub.repos["owner/closed"] = Repo(private=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN")
        one_error(command(capsys, "pull", "owner/closed"), "closed to you")


def test_a_named_bridge_is_fetched_once_and_used_offline(
    hub: StandIn, run: Path, unequal: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(capsys, "push", "made", "owner/name", "--yes")
    path = bridge_file("owner/name", Screen())
    assert path.is_relative_to(Path("cache").absolute())
    load_bridge(path, unequal)
    fetched = [line for line in hub.asked if line.startswith("GET /owner/name/resolve")]
    assert bridge_file("owner/name", Screen()) == path
    assert [line for line in hub.asked if line.startswith("GET /owner/name/resolve")] == fetched
    capsys.readouterr()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bridge_file("owner/name", Screen()) == path
    assert "as it was fetched before" in capsys.readouterr().err
    with pytest.raises(UnreachableError, match=r"owner/other.*HF_HUB_OFFLINE"):
        bridge_file("owner/other", Screen())
    hub.repos["owner/name"].branches["main"]["config.json"] = b"{}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert bridge_file("owner/name", Screen()).parent != path.parent  # a new commit is another folder


def test_a_hub_out_of_reach_is_one_line(
    hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    one_error(command(capsys, "pull", "owner/name"), "cannot be reached", "./folder")
    one_error(command(capsys, "push", "made", "owner/name", "--yes"), "cannot be reached")


def test_names_from_the_hub_stay_in_the_folder(
    hub: StandIn, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(capsys, "push", "made", "owner/name", "--yes")
    evil = ("../../escaped", "/tmp/escaped.png", "figures/../../escaped.png", "figures/a\\..\\escaped.png")
    others = ("model.pkl", "helmas.py", "figures/page.svg", "figures/*.png", ".cache/x")
    hub.repos["owner/name"].branches["main"] |= dict.fromkeys((*evil, *others), b"evil")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert command(capsys, "pull", "owner/name", "-o", "here").code == 0
    added = {path for path in tmp_path.rglob("*") if "cache" not in path.parts} - before
    assert all(path.is_relative_to(tmp_path / "here") for path in added)
    assert not any(path.read_bytes() == b"evil" for path in added if path.is_file())
    folder = bridge_file("owner/name", Screen()).parent
    assert not any(path.read_bytes() == b"evil" for path in folder.rglob("*") if path.is_file())
    assert not any(name in line for line in hub.asked for name in ("escaped", "model.pkl", "helmas.py"))


def test_a_damaged_bridge_does_not_arrive(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "push", "made", "owner/name", "--yes")
    files = hub.repos["owner/name"].branches["main"]
    files["bridge.safetensors"] = files["bridge.safetensors"][:-4]
    one_error(command(capsys, "pull", "owner/name", "-o", "here"), "not a whole safetensors file", code=2)
    assert not Path("here").exists() and not list(Path().glob(".partial-*"))


def test_a_failed_upload_is_one_line(hub: StandIn, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helmas_core.sharing.address import Repository
    from helmas_core.sharing.hub import send

    hub.repos["owner/name"] = Repo()
    hub.denied = 403
    with pytest.raises(HubError, match="not allowed"):
        send(Repository("owner/name", "main"), {"bridge.safetensors": b"x"}, None)
