"""Files around a bridge: the artefact, a checkpoint, what the store and the thoughts of a teacher lie in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from helmas_core.bridges import artefact
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge, check_method
from helmas_core.config import BridgeSection, Config
from helmas_core.errors import DataError
from helmas_core.handoff.examples import Thought
from helmas_core.handoff.store import Store
from helmas_core.handoff.thoughts import Thoughts
from helmas_core.layering import load_config
from helmas_core.models.pair import Pair
from helmas_core.training import checkpoint
from tests.fuzz.format import Format
from tests.tiny import tiny_model, tiny_pair

KEYS = [letter * 64 for letter in "abc"]


@cache
def pair() -> Pair:
    shape: dict[str, Any] = {"layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "vocab_size": 512}
    return tiny_pair(tiny_model("qwen3", seed=1, **shape), tiny_model("llama", seed=2, **shape))


@cache
def trained() -> tuple[Bridge, torch.optim.Optimizer]:
    """A bridge and an optimiser that has taken a step."""
    torch.manual_seed(0)
    bridge = build_bridge(BridgeSection.model_validate({"layer_blending": "skip", "projector_depth": 1}), pair())
    optimiser = torch.optim.AdamW(bridge.parameters())
    for parameter in bridge.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return bridge, optimiser


def _document(section: dict[str, Any]) -> dict[str, Any]:
    whole = Config(bridge=BridgeSection.model_validate(section))
    training = {"dataset": "relay", "split": "train", "items": 2, "seed": 0, "hashes": "0" * 32, "stages": []}
    return artefact.describe(whole, pair(), training)


def _bridge(folder: Path) -> None:
    section = {"layer_blending": "skip", "projector_depth": 1}
    artefact.save_bridge(folder / "bridge.safetensors", trained()[0], _document(section))


def _read_bridge(folder: Path) -> None:
    artefact.load_bridge(folder / "bridge.safetensors", pair())


def _read_metadata(folder: Path) -> None:
    document = artefact.read_metadata(folder / "bridge.safetensors")
    found = load_config(base=document["config"])
    check_method(found.bridge, found.train, found.data.handoff)


def _checkpoint(folder: Path) -> None:
    bridge, optimiser = trained()
    trained_so_far = {"scaler": {}, "terms": {"ce": [0.5]}, "micro_batch": None, "skipped": [0, 0]}
    found = {"losses": {"loss": float("nan"), "ce": 0.5}, "best": {"step": 2.0, "bridge": 0.5}, "data": "00"}
    state = {"step": 3, **found, **trained_so_far, "seconds": 1.5}
    checkpoint.save(folder, bridge, optimiser, _document({"layer_blending": "skip", "projector_depth": 1}), state)


def _read_checkpoint(folder: Path) -> None:
    checkpoint.load(checkpoint.steps(folder)[-1], *trained())  # whatever its checksums say


def _store(folder: Path) -> None:
    entry = {
        "keys.data": torch.arange(12.0).view(1, 2, 3, 2),
        "values.data": torch.ones(1, 2, 3, 2, dtype=torch.bfloat16),
    }
    Store(folder, 1.0).put({key: {name: one.clone() for name, one in entry.items()} for key in KEYS})
    shard = next(folder.glob("*.safetensors"))
    shard.rename(folder / f"{'d' * 64}.safetensors")


def _noted(notes: list[str]) -> None:
    """What is skipped with a note counts as refused."""
    if notes:
        raise DataError(notes[0])


def _read_store(folder: Path) -> None:
    notes: list[str] = []
    store = Store(folder, 1.0, notes.append)
    for key in KEYS:
        store.get(key)
    _noted(notes)


def _thoughts(folder: Path) -> None:
    Thoughts(folder).put({key: Thought(f"Bo has {i} eggs.\u2028 So {i}.", 9, 0.5, False) for i, key in enumerate(KEYS)})
    next(folder.glob("*.jsonl")).rename(folder / f"{'e' * 64}.jsonl")


def _read_thoughts(folder: Path) -> None:
    notes: list[str] = []
    Thoughts(folder, notes.append)
    _noted(notes)


CHECKPOINT = tuple(f"step-0000003/{name}" for name in ("bridge.safetensors", "optimiser.safetensors", "progress.json"))


FORMATS = (
    Format("bridge metadata", "tensors", 32, ("bridge.safetensors",), _bridge, _read_metadata),
    Format("bridge", "tensors", 3, ("bridge.safetensors",), _bridge, _read_bridge),
    Format("checkpoint", "tensors", 3, CHECKPOINT, _checkpoint, _read_checkpoint),
    Format("store shard", "tensors", 24, (f"{'d' * 64}.safetensors",), _store, _read_store),
    Format("thoughts", "lines", 14, (f"{'e' * 64}.jsonl",), _thoughts, _read_thoughts),
)
