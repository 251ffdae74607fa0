"""A teacher that is spread over several places reads and writes as one that is not. Here: the host and its disk."""

from __future__ import annotations

import pytest
import torch

from helmas_core.config import Config
from helmas_core.errors import ConfigError, PairError
from helmas_core.layering import load_config
from helmas_core.models.cache import capture
from helmas_core.models.hardware import Hardware, resolve_hardware
from helmas_core.models.inject import generate
from helmas_core.models.layers import layer_devices
from helmas_core.models.loading import load_pair, placement
from helmas_core.models.pair import Pair

pytestmark = pytest.mark.numerics
HOST = Hardware(torch.device("cpu"), torch.float32, "sdpa", ())


def config(*more: str) -> Config:
    return load_config(["lab"], [f"hardware.{setting}" for setting in more])


@pytest.fixture(scope="module")
def spread() -> Pair:
    return load_pair(config("teacher_device=auto", 'teacher_memory={cpu = "2MiB"}'), HOST)


def test_it_is_the_same_model(spread: Pair, lab_pair: Pair) -> None:
    assert any(parameter.is_meta for parameter in spread.teacher.model.parameters())
    assert spread.describe() == lab_pair.describe()
    assert spread.teacher.rope_residual == lab_pair.teacher.rope_residual
    assert layer_devices(spread.teacher.model) == [torch.device("cpu")] * 8


def test_it_reads_and_goes_on_as_before(spread: Pair, lab_pair: Pair) -> None:
    ids = torch.arange(2, 42).view(2, 20)
    mask = torch.ones_like(ids)
    ours, theirs = (pair.teacher.read(ids, mask, (0, 3, 8)) for pair in (spread, lab_pair))
    for name in ("keys", "values", "hidden"):
        assert all(map(torch.equal, getattr(ours, name), getattr(theirs, name)))
    grown = [capture(p.teacher.model, ids[:, :3], mask[:, :3], (0, 3, 8), theirs) for p in (spread, lab_pair)]
    assert all(map(torch.equal, grown[0].keys, grown[1].keys))
    said = [generate(p.teacher.model, theirs, ids[:, :2], mask[:, :2], 4).tokens for p in (spread, lab_pair)]
    assert said[0] == said[1]


def test_latent_steps_need_its_weights() -> None:
    asked = config("teacher_device=auto", 'teacher_memory={cpu = "2MiB"}')
    latent = asked.model_copy(update={"data": asked.data.model_copy(update={"handoff": "latent"})})
    with pytest.raises(PairError, match=r"hardware\.teacher_device: latent steps need all weights"):
        load_pair(latent, HOST)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["teacher_device=cuda:7"], 'no device "cuda:7" here — choose one of auto, cpu'),
        (["teacher_device=cpu", 'teacher_memory={cpu = "2MiB"}'], "limits for a teacher that is not spread"),
    ],
)
def test_what_is_not_there_is_refused(settings: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        resolve_hardware(config(*settings))


def test_where_its_weights_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placement(config().hardware, HOST) is placement(config("teacher_device=cpu").hardware, HOST) is None
    alone = Hardware(torch.device("cuda"), torch.float32, "sdpa", ())
    assert placement(config("teacher_device=cpu").hardware, alone) == {"device_map": {"": torch.device("cpu")}}
    assert placement(config("teacher_device=auto").hardware, alone) == {"device_map": "auto"}
    some = config("teacher_device=auto", 'teacher_memory={0 = "9GiB", cpu = "1GiB"}').hardware
    assert placement(some, alone) == {"device_map": "auto", "max_memory": {0: "9GiB", "cpu": "1GiB"}}
    for name, value in {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("helmas_core.models.loading.get_max_memory", lambda: {0: 8, 1: 8, 2: 8, 3: 8, "cpu": 5})
    shared = placement(config("teacher_device=auto").hardware, alone)
    assert shared == {"device_map": "auto", "max_memory": {1: 8, 3: 8, "cpu": 5}}
