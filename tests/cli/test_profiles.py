"""The shipped profiles and what `helmas profiles` makes of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from helmas_cli.commands.profiles import to_toml
from helmas_core.data.tasks import get_task
from helmas_core.layering import DEFAULT_PROFILE, load_config, profile_folder, profile_names, read_toml
from helmas_core.models.hardware import runnable_profiles
from tests.cli.fakes import Cli

pytestmark = pytest.mark.unit
METHODS = ("kava", "c2c", "h2c", "modules")


def test_all_are_there() -> None:
    pairs = {"h200", "h100", "laptop", "cpu", "lab", "qwen2.5-cpu", "qwen2.5-gpu", "qwen3-h200"}
    assert set(profile_names()) == pairs | set(METHODS)
    assert DEFAULT_PROFILE == "h200"


@pytest.mark.parametrize("name", profile_names())
def test_each_is_valid_and_its_tasks_exist(name: str) -> None:
    config = load_config([name])
    for task in config.data.dataset.split(","):
        get_task(task)
    assert (profile_folder() / f"{name}.toml").read_text().startswith("# ")


@pytest.mark.parametrize("method", METHODS)
def test_the_profile_of_a_method_goes_over_that_of_a_pair(cli: Cli, method: str) -> None:
    plan = cli("train", "-p", "lab", "-p", method, "--dry-run", "--json").json
    assert plan["teacher"] == "lab:teacher" and plan["method"] == method
    assert "neighbours" not in plan["config"]["bridge"]
    assert method not in runnable_profiles()
    [row] = [row for row in cli("profiles", "list", "--json").json["profiles"] if row["name"] == method]
    assert row["teacher"] is None and row["student"] is None


def test_the_default_pair_ships_its_shapes() -> None:
    shapes = load_config(["h200"]).pair.geometry
    assert shapes is not None
    assert load_config(["h100"]).pair.geometry == shapes
    assert shapes.teacher.parameters == _qwen3_parameters(36, 4096, 32, 8, 128, 12288, 151936, tied=False)
    assert shapes.student.parameters == _qwen3_parameters(28, 2048, 16, 8, 128, 6144, 151936, tied=True)
    assert load_config(["h200"], ["pair.teacher=other"]).pair.geometry is None


def _qwen3_parameters(
    layers: int, hidden: int, heads: int, kv: int, dim: int, inner: int, words: int, *, tied: bool
) -> int:
    attention = 2 * hidden * heads * dim + 2 * hidden * kv * dim + 2 * dim
    return layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden + words * hidden * (1 if tied else 2)


def test_h100_is_h200_in_smaller_batches() -> None:
    big, small = read_toml(profile_folder() / "h200.toml"), read_toml(profile_folder() / "h100.toml")
    assert big["bridge"] == small["bridge"]
    assert big["train"]["batch"] == small["train"]["batch"] * small["train"]["accumulate"]


def test_names_that_are_no_bare_toml_keys_are_quoted() -> None:
    tree = {"data": {"mix": {"text:/a b.txt": 1.0, "gsm8k": 2.0}}}
    assert tomllib.loads(to_toml(tree)) == tree


def test_list(cli: Cli) -> None:
    rows = cli("profiles", "list", "--json").json["profiles"]
    assert [row["name"] for row in rows if row["default"]] == ["h200"]
    shown = cli("profiles", "list")
    assert shown.code == 0
    assert "h200 (default)" in shown.out
    assert all(row["about"] and row["about"] in shown.out for row in rows)


@pytest.mark.parametrize("name", profile_names())
def test_show_is_a_profile_again(cli: Cli, tmp_path: Path, name: str) -> None:
    result = cli("profiles", "show", name, "-s", 'data.split="a \\"b\\" é"', "-o", "out")
    assert result.code == 0
    (tmp_path / "copy.toml").write_text(result.out)
    assert load_config([str(tmp_path / "copy.toml")]) == load_config([name], ['data.split="a \\"b\\" é"'])
    assert (tmp_path / "out/profile.toml").read_text() == result.out


def test_show_resolves_flags(cli: Cli) -> None:
    assert cli("profiles", "show", "lab", "--limit", "3", "--json").json["data"]["limit"] == 3
    assert cli("profiles", "show", "--json").json["pair"]["teacher"] == "Qwen/Qwen3-8B"
    assert cli("profiles", "show", "lba").code == 2


def test_toml_leaves_none_out() -> None:
    assert (
        to_toml({"a": {"b": None, "c": [1, {"d": 0.5}], "e": {"f": True}}})
        == "[a]\nc = [1, { d = 0.5 }]\n\n[a.e]\nf = true\n"
    )
