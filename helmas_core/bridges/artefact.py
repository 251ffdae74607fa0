"""`bridge.safetensors`: weights plus one JSON string that says what they are and for which pair.

Everything that a file claims is checked before a tensor is read; nothing in it is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge, method_mode
from helmas_core.config import BridgeSection, Config, validate
from helmas_core.errors import CheckpointError
from helmas_core.files import replacing
from helmas_core.models.pair import Pair

FORMAT = 1
KEY = "helmas"
_CONFIG = ("pair", "bridge", "data", "eval")


def describe(config: Config, pair: Pair, training: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata document of a bridge trained under `config`."""
    whole = config.model_dump(mode="json", exclude={"pair": {"geometry"}, "data": {"data_dir"}})
    whole["bridge"]["mode"] = method_mode(config.bridge)
    return {
        "format": FORMAT,
        "method": config.bridge.method,
        "config": {name: whole[name] for name in _CONFIG},
        "pair": pair.describe(),
        "training": dict(training),
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Replace `path` whole with `tensors` and the JSON `document` that describes them."""
    ready = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(ready, partial, metadata={KEY: json.dumps(document, sort_keys=True)})


def save_bridge(path: Path, bridge: Bridge, document: Mapping[str, Any]) -> None:
    write_tensors(path, bridge.state_dict(), document)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and the document of a file that `write_tensors` made; CheckpointError otherwise."""
    document = _document(path)
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, document  # noqa: SIM118 - not a dict


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        fix = "copy or train it again"
        raise CheckpointError(f"not a whole safetensors file ({error})", where=str(path), fix=fix) from error


def _document(path: Path) -> dict[str, Any]:
    with _open(path) as file:
        text = (file.metadata() or {}).get(KEY)
    try:
        document = json.loads(text) if text else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CheckpointError(
            "a safetensors file, but not made by helmas", where=str(path), fix="give a bridge.safetensors"
        )
    if document.get("format") != FORMAT:
        found = document.get("format")
        raise CheckpointError(
            f"format {found}, this helmas reads {FORMAT}", where=str(path), fix="use a matching helmas"
        )
    return document


def read_metadata(path: Path) -> dict[str, Any]:
    """What a bridge file says of itself: method, config, pair, training."""
    document = _document(path)
    if missing := [key for key in ("method", "config", "pair", "training") if key not in document]:
        raise CheckpointError(f"metadata lacks {', '.join(missing)}", where=str(path), fix="give a bridge.safetensors")
    return document


def load_bridge(path: Path, pair: Pair) -> Bridge:
    """The trained bridge on the pair's device, ready for inference; refused with the first difference."""
    document = read_metadata(path)
    check_pair(document["pair"], pair.describe(), str(path))
    section = validate(BridgeSection, document["config"]["bridge"], where="bridge")
    bridge = build_bridge(section, pair)
    load_weights(bridge, read_tensors(path)[0], str(path))
    return bridge.eval().requires_grad_(False)


def start_from(path: Path, bridge: Bridge, pair: Pair) -> None:
    """Give `bridge` the weights and statistics of a trained one of the same shape, made for the same pair."""
    if not path.is_file():
        raise CheckpointError("no such file", where=str(path), fix="give a bridge.safetensors")
    check_pair(read_metadata(path)["pair"], pair.describe(), str(path))
    load_weights(bridge, read_tensors(path)[0], str(path))


def load_weights(bridge: Bridge, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy weights in after comparing every name, shape and dtype."""
    wanted = bridge.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        have, need = tensors.get(name), wanted.get(name)
        if have is None or need is None or have.shape != need.shape or have.dtype != need.dtype:
            raise CheckpointError(
                f'tensor "{name}" does not fit its metadata', where=where, fix="train the bridge again"
            )
    bridge.load_state_dict(dict(tensors))


def _right_model(side: str, wanted: str | None, given: str | None) -> str:
    if wanted == given:
        return f"the weights of {wanted} are not those that it was trained with: get those, or train the bridge again"
    return f"load the bridge with {side} {wanted}"


def check_pair(stored: Mapping[str, Any], pair: Mapping[str, Any], where: str) -> None:
    """Refuse a bridge made for other models: shapes, weights or tokenizer."""
    for side in ("teacher", "student"):
        ours, theirs = pair[side], stored.get(side, {})
        for key in ("model_type", "layers", "kv_heads", "head_dim", "rope_theta", "rope_type", "fingerprint"):
            if theirs.get(key) != ours[key]:
                what = f"made for another pair: {side} {key} is {theirs.get(key)}, this one has {ours[key]}"
                raise CheckpointError(what, where=where, fix=_right_model(side, theirs.get("id"), ours.get("id")))
    for side in ("tokenizer", "teacher_tokenizer"):  # the teacher's is named where it is another one
        theirs, ours = (document.get(side, document.get("tokenizer")) for document in (stored, pair))
        if theirs != ours:
            what = f"made for another {side.replace('_', ' ')}"
            raise CheckpointError(what, where=where, fix="use the pair that it was trained with")
