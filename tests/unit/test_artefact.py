"""The artefact: a round trip, and every way in which a file may be the wrong one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helmas_core.bridges.artefact import describe, load_bridge, read_metadata, save_bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config
from helmas_core.errors import CheckpointError, ConfigError
from helmas_core.layering import load_config
from helmas_core.models.cache import capture
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from tests.foreign import foreign_pair
from tests.tiny import tiny_model, tiny_pair

pytestmark = pytest.mark.unit


@pytest.fixture
def saved(unequal: Pair, tmp_path: Path) -> Path:
    path = tmp_path / "bridge.safetensors"
    save_bridge(path, build_bridge(BridgeSection(), unequal), describe(Config(), unequal, {"seed": 3}))
    return path


def test_a_round_trip_gives_the_same_cache(unequal: Pair, tmp_path: Path) -> None:
    bridge = build_bridge(BridgeSection.model_validate({"mode": "fuse", "projector_input": "layer"}), unequal)
    read = pad_left([[5, 6, 7], [8, 9]], 0)
    state, own = capture(unequal.teacher.model, *read), capture(unequal.student.model, *read)
    bridge.fit([(state, own)])
    config = Config(bridge=BridgeSection.model_validate({"mode": "fuse", "projector_input": "layer"}))
    save_bridge(tmp_path / "b.safetensors", bridge, describe(config, unequal, {}))
    again = load_bridge(tmp_path / "b.safetensors", unequal)
    assert all(torch.equal(a, b) for a, b in zip(again(state, own).keys, bridge(state, own).keys, strict=True))
    assert not any(p.requires_grad for p in again.parameters())


def test_a_low_rank_round_trip_gives_the_same_cache(unequal: Pair, tmp_path: Path) -> None:
    section = BridgeSection.model_validate({"projector_input": "neighbourhood", "rank": 8, "ridge": [0.01, 0.1]})
    bridge, read = build_bridge(section, unequal), pad_left([[5, 6, 7], [8, 9], [9, 5]], 0)
    state, own = capture(unequal.teacher.model, *read), capture(unequal.student.model, *read)
    bridge.fit([(state, own)])
    save_bridge(tmp_path / "b.safetensors", bridge, describe(Config(bridge=section), unequal, {}))
    again = load_bridge(tmp_path / "b.safetensors", unequal)
    assert all(torch.equal(a, b) for a, b in zip(again(state).values, bridge(state).values, strict=True))


def test_a_file_from_before_an_option_was_there_still_loads(unequal: Pair, tmp_path: Path) -> None:
    section = BridgeSection.model_validate({"projector_input": "neighbourhood"})
    path = tmp_path / "b.safetensors"
    save_bridge(path, build_bridge(section, unequal), describe(Config(bridge=section), unequal, {}))
    config = read_metadata(path)["config"]
    _rewrite(path, config={**config, "data": {k: v for k, v in config["data"].items() if k != "cut_last_step"}})
    load_bridge(path, unequal)
    assert load_config([], [], base=read_metadata(path)["config"]).data.cut_last_step is False
    assert {name for name in load_file(path) if name.startswith("projectors")} == {
        "projectors.0.linear",
        "projectors.0.residual.maps.0",
        "projectors.0.residual.maps.1",
    }


def test_a_file_binds_both_tokenizers_where_they_differ(unequal: Pair, tmp_path: Path) -> None:
    path, pair = tmp_path / "b.safetensors", foreign_pair()
    assert "teacher_tokenizer" not in describe(Config(), unequal, {})["pair"]
    save_bridge(path, build_bridge(BridgeSection(), pair), describe(Config(), pair, {}))
    load_bridge(path, pair)
    for other, said in (
        (pair.as_teacher, "another tokenizer"),
        (replace(pair, codec=None), "another teacher tokenizer"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_bridge(path, other)


def test_the_metadata_says_what_the_file_is(saved: Path) -> None:
    document = read_metadata(saved)
    assert document["method"] == "helmas"
    assert document["training"] == {"seed": 3}
    assert document["config"]["bridge"]["mode"] == "replace"
    assert document["pair"]["student"]["layers"] == 3


def test_a_bridge_of_another_shape_is_refused(saved: Path, unequal: Pair) -> None:
    other = tiny_pair(tiny_model("qwen3", layers=4, kv_heads=4, seed=1), unequal.student.model)
    with pytest.raises(CheckpointError, match=r"teacher layers is 5, this one has 4"):
        load_bridge(saved, other)


def test_a_fine_tuned_sibling_is_refused(saved: Path, unequal: Pair) -> None:
    sibling = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1)
    with torch.no_grad():
        sibling.model.norm.weight.add_(0.25)
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_bridge(saved, tiny_pair(sibling, unequal.student.model))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_truncated_file_is_refused(saved: Path, unequal: Pair, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"^\S+: not a whole safetensors file"):
        load_bridge(saved, unequal)
    with pytest.raises(CheckpointError, match=r"^\S*bridge\.safetensors: not a whole safetensors file"):
        read_metadata(saved)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path, unequal: Pair) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not made by helmas"):
        load_bridge(path, unequal)


def _rewrite(path: Path, **changes: object) -> None:
    document = read_metadata(path)
    tensors = load_file(path)
    save_file(tensors, path, metadata={"helmas": json.dumps({**document, **changes})})


def test_another_format_is_refused(saved: Path, unequal: Pair) -> None:
    _rewrite(saved, format=99)
    with pytest.raises(CheckpointError, match="format 99"):
        load_bridge(saved, unequal)


def test_an_unknown_method_is_refused(saved: Path, unequal: Pair) -> None:
    document = read_metadata(saved)
    bridge = {**document["config"]["bridge"], "method": "helmass"}
    _rewrite(saved, config={**document["config"], "bridge": bridge})
    with pytest.raises(ConfigError, match='did you mean "helmas"'):
        load_bridge(saved, unequal)


def test_tensors_that_do_not_fit_their_metadata_are_refused(saved: Path, unequal: Pair) -> None:
    document = read_metadata(saved)
    tensors = {name: t for name, t in load_file(saved).items() if name != "blend.logits"}
    save_file(tensors, saved, metadata={"helmas": json.dumps(document)})
    with pytest.raises(CheckpointError, match=r"blend\.logits"):
        load_bridge(saved, unequal)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("helmas_core.bridges.artefact.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_bridge(tmp_path / "b.safetensors", build_bridge(BridgeSection(), unequal), describe(Config(), unequal, {}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"method": "c2c", "hidden": 2**40},
        {"method": "h2c", "expansion": 1e300},
        {"method": "prefix", "parameters": 2**50, "mode": "replace"},
        {"rank": 2**40, "projector_input": "layer"},
        {"hidden_expansion": 63.5},
        {"blend_kernel_size": 2**31, "layer_blending": "blend"},
        {"student_lora": 2**30},
        {"projector_depth": 3},
    ],
)
def test_options_that_the_tensors_do_not_bear_out_cost_nothing(
    saved: Path, unequal: Pair, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    _rewrite(saved, config={"bridge": options})
    monkeypatch.setattr("helmas_core.bridges.artefact.build_bridge", lambda *_: pytest.fail("room was made for it"))
    with pytest.raises(CheckpointError, match=r"does not fit its metadata|make no bridge"):
        load_bridge(saved, unequal)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"config": {"train": {"store": "/home"}}}, "config.train"),
        ({"config": {"bridge": 3}}, "config.bridge"),
        ({"config": []}, "config"),
        ({"pair": {"teacher": {}}}, "pair.student"),
        ({"pair": {"teacher": [], "student": {}}}, "pair.teacher"),
        ({"training": {"dataset": 3}}, "training.dataset"),
        ({"training": {"hashes": ["x"]}}, "training.hashes"),
        ({"method": None}, "method"),
    ],
)
def test_metadata_of_another_form_is_refused(saved: Path, changes: dict[str, object], word: str) -> None:
    _rewrite(saved, **changes)
    with pytest.raises(CheckpointError, match=word.replace(".", r"\.")):
        read_metadata(saved)


def test_a_bridge_names_no_folder_of_data(saved: Path) -> None:
    _rewrite(saved, config={"data": {"data_dir": "/etc", "dataset": "relay"}})
    assert read_metadata(saved)["config"] == {"data": {"dataset": "relay"}}
