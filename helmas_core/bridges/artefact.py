"""`bridge.safetensors`: weights plus one JSON string that says what they are and for which pair.

Everything that a file claims is checked before a tensor is read; nothing in it is ever executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import bridge_for, build_bridge, method_mode
from helmas_core.config import BridgeSection, Config
from helmas_core.errors import CheckpointError, HelmasError
from helmas_core.files import replacing
from helmas_core.foreign import parse_object, why
from helmas_core.models.pair import Pair
from helmas_core.secrets import hidden
from helmas_core.sides import described
from helmas_core.tensors import Header, read_header
from helmas_core.validation import validate

FORMAT = 1
KEY = "helmas"
_CONFIG = ("pair", "bridge", "data", "eval")
_STUDENT = re.compile(r"(bridges\.0\.)?student_(lora|copy)\.")  # tensors of a student that was trained along
_RANK = "student_lora.down.0"
_AGAIN = "train the bridge again"


class Sides(BaseModel):
    """The pair that a bridge is bound to."""

    model_config = ConfigDict(extra="allow")

    teacher: dict[str, Any]
    student: dict[str, Any]


class Training(BaseModel):
    """What a bridge was trained on, as far as it tells."""

    model_config = ConfigDict(extra="allow")

    dataset: str = ""
    split: str = ""
    hashes: str = ""
    seed: int | None = None


class Metadata(BaseModel):
    """The metadata document. Its configuration holds what describes the bridge, and no folder to read or write."""

    method: str
    config: dict[Literal["pair", "bridge", "data", "eval"], dict[str, Any]]
    pair: Sides
    training: Training


def describe(config: Config, pair: Pair, training: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata document of a bridge trained under `config`."""
    whole = config.model_dump(mode="json", exclude={"pair": {"geometry"}, "data": {"data_dir"}})
    whole["bridge"]["mode"] = method_mode(config.bridge)
    document = {
        "format": FORMAT,
        "method": config.bridge.method,
        "config": {name: whole[name] for name in _CONFIG},
        "pair": pair.describe(),
        "training": dict(training),
    }
    return hidden(document)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Replace `path` whole with `tensors` and the JSON `document` that describes them."""
    ready = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(ready, partial, metadata={KEY: json.dumps(document, sort_keys=True)})


def with_document(path: Path, document: Mapping[str, Any]) -> bytes:
    """What the file `path` would be with another document: the same tensors."""
    return save(read_tensors(path)[0], metadata={KEY: json.dumps(document, sort_keys=True)})


def save_bridge(path: Path, bridge: Bridge, document: Mapping[str, Any]) -> None:
    write_tensors(path, bridge.state_dict(), document)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and the document of a file that `write_tensors` made; CheckpointError otherwise."""
    document = _document(path)
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, document  # noqa: SIM118 - not a dict


def _open(path: Path) -> Any:
    _header(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, error) from error


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except (OSError, ValueError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> CheckpointError:
    fix = "copy or train it again"
    return CheckpointError(f"not a whole safetensors file ({why(error)})", where=str(path), fix=fix)


def _document(path: Path) -> dict[str, Any]:
    header = _header(path)
    try:
        document = parse_object(header.metadata.get(KEY, ""))
    except ValueError as error:
        raise CheckpointError(
            f"a safetensors file, but not made by helmas ({why(error)})",
            where=str(path),
            fix="give a bridge.safetensors",
        ) from error
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
    try:
        Metadata.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"metadata, {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise CheckpointError(what, where=str(path), fix="give a bridge.safetensors") from error
    document["config"].get("data", {}).pop("data_dir", None)
    return document


def load_bridge(path: Path, pair: Pair) -> Bridge:
    """The trained bridge on the pair's device, ready for inference; refused with the first difference."""
    document = read_metadata(path)
    check_pair(document["pair"], pair.describe(), str(path))
    section = validate(BridgeSection, document["config"].get("bridge", {}), where="bridge")
    check_layout(section, pair, _header(path), str(path))
    bridge = build_bridge(section, pair)
    load_weights(bridge, read_tensors(path)[0], str(path))
    return bridge.eval().requires_grad_(False)


def start_from(path: Path, bridge: Bridge, pair: Pair) -> None:
    """Give `bridge` the weights and statistics of a trained one of the same shape, made for the same pair."""
    if not path.is_file():
        raise CheckpointError("no such file", where=str(path), fix="give a bridge.safetensors")
    check_pair(read_metadata(path)["pair"], pair.describe(), str(path))
    load_weights(bridge, read_tensors(path)[0], str(path))


def check_layout(section: BridgeSection, pair: Pair, header: Header, where: str) -> None:
    """Refuse options that ask for other tensors than the file holds, before room is made for any."""
    try:
        with torch.device("meta"):
            wanted = bridge_for(section, pair).state_dict()
    except HelmasError:
        raise
    except Exception as error:  # whatever torch says of sizes that make no sense
        raise CheckpointError(f"its options make no bridge ({why(error)})", where=where, fix=_AGAIN) from error
    held = {name: shape for name, (_, shape) in header.shapes.items() if not _STUDENT.match(name)}
    for name in sorted(wanted.keys() | held.keys()):
        if name not in wanted or held.get(name) != tuple(wanted[name].shape):
            raise _no_fit(name, where)
    rank = next((name for name in header.shapes if name.endswith(_RANK)), _RANK)
    if section.lora_rank is not None and header.shapes.get(rank, ("", ()))[1][:1] != (section.lora_rank,):
        raise _no_fit(rank, where)


def _no_fit(name: str, where: str) -> CheckpointError:
    return CheckpointError(f'tensor "{name}" does not fit its metadata', where=where, fix=_AGAIN)


def load_weights(bridge: Bridge, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy weights in after comparing every name, shape and dtype."""
    wanted = bridge.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        have, need = tensors.get(name), wanted.get(name)
        if have is None or need is None or have.shape != need.shape or have.dtype != need.dtype:
            raise _no_fit(name, where)
    bridge.load_state_dict(dict(tensors))


def _right_model(side: str, wanted: str | None, given: str | None) -> str:
    if wanted == given:
        return f"the weights of {wanted} are not those that it was trained with: get those, or train the bridge again"
    return f"load the bridge with {side} {wanted}"


def check_pair(stored: Mapping[str, Any], pair: Mapping[str, Any], where: str) -> None:
    """Refuse a bridge made for other models: their number, shapes, weights or tokenizer."""
    made_for, given = (described(document) for document in (stored, pair))
    if made_for.keys() != given.keys():
        what = f"made for another pair: teachers {len(made_for) - 1}, of this one {len(given) - 1}"
        raise CheckpointError(what, where=where, fix="name the same ones under pair.teacher and pair.more_teachers")
    for side, ours in given.items():
        theirs = made_for[side]
        for key in ("model_type", "layers", "kv_heads", "head_dim", "rope_theta", "rope_type", "fingerprint"):
            if theirs.get(key) != ours[key]:
                what = f"made for another pair: {side} {key} is {theirs.get(key)}, this one has {ours[key]}"
                raise CheckpointError(what, where=where, fix=_right_model(side, theirs.get("id"), ours.get("id")))
    teachers = [f"{side}_tokenizer" for side in given if side != "student"]
    for side in ("tokenizer", *teachers):  # a teacher's is named where it is another one
        theirs, ours = (document.get(side, document.get("tokenizer")) for document in (stored, pair))
        if theirs != ours:
            what = f"made for another {side.replace('_', ' ')}"
            raise CheckpointError(what, where=where, fix="use the pair that it was trained with")
