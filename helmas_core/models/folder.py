"""A model's local folder or GGUF file, looked through before any library opens it.

Weights are safetensors or GGUF and nothing else; what the files claim is compared with what they hold; no name in them
leads out of the folder, to a hub, or to code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from helmas_core.errors import PairError
from helmas_core.foreign import MIB, open_regular, parse_object, read_text, why
from helmas_core.models.gguf_header import LAYERS, gguf_values
from helmas_core.tensors import read_header

Result = TypeVar("Result")
COUNT = 2**31  # of anything else that a configuration counts
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SETTINGS, _TOKENIZER = 16 * MIB, 256 * MIB
_DIGITS = 31  # some tokenizers say 10**30 for "no limit"
_OBJECTS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TEXTS = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja")
_REDIRECTS = ("transformers_weights", "base_model_name_or_path")
_FIX = "use a whole, unchanged copy of the model"


def check_settings(folder: Path) -> dict[str, Any]:
    """config.json, after everything in `folder` that is read before the weights. PairError for what is refused."""
    return _refusing(folder, lambda: _settings(folder))


def weights_held(source: Path) -> int:
    """Numbers in all weights of a folder, which are safetensors, or of a GGUF file. PairError for what is refused."""
    if source.suffix == ".gguf":
        return _refusing(source, lambda: gguf_values(source))
    return _refusing(source, lambda: sum(read_header(path).values for path in _weights(source)))


def check_size(source: Path, needed: int) -> None:
    """PairError where a model of `needed` numbers has fewer in its files: the rest would be made up."""
    held = weights_held(source)
    if needed > held:
        what = f"its configuration asks for {needed:,} weights, its files hold {held:,}"
        raise PairError(what, where=str(source), fix=_FIX)


def _refusing(path: Path, check: Callable[[], Result]) -> Result:
    try:
        return check()
    except (OSError, ValueError) as error:
        raise PairError(f"cannot be used: {why(error)}", where=str(path), fix=_FIX) from error


def _settings(folder: Path) -> dict[str, Any]:
    if (folder / "adapter_config.json").exists():
        raise ValueError("an adapter, not a model: merge it into its model first")
    config = _object(folder, "config.json")
    _check_claims(config)
    for name in _OBJECTS:
        if (folder / name).exists():
            _check_names(_object(folder, name))
    for name in _TEXTS:
        if (folder / name).exists():
            with open_regular(folder / name) as file:
                if os.fstat(file.fileno()).st_size > _TOKENIZER:
                    raise ValueError(f"{name} is larger than {_TOKENIZER:,} bytes")
    return config


def _object(folder: Path, name: str) -> dict[str, Any]:
    try:
        return parse_object(read_text(folder / name, _SETTINGS), _DIGITS, finite=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {why(error)}") from error


def _pairs(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _pairs(value)


def _check_claims(config: dict[str, Any]) -> None:
    """What a configuration counts must be countable, and it must not send us elsewhere."""
    _check_names(config)
    for key, value in _pairs(config):
        most = LAYERS if "layers" in key else COUNT
        if isinstance(value, int) and abs(value) > most:
            raise ValueError(f"config.json: {key[:40]} is {value}, at most {most:,} is read")
        if "attn_implementation" in key and "/" in str(value):
            raise ValueError(f"config.json: {key[:40]} names code from elsewhere")


def _check_names(document: dict[str, Any]) -> None:
    for key, value in _pairs(document):
        if (key in _REDIRECTS and value) or (key.endswith("_file") and Path(str(value)).name != str(value)):
            raise ValueError(f"{key[:40]} leads out of its folder")


def _weights(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        raise ValueError(f"no {WEIGHTS} here; pickled weights are never loaded")
    names = _object(folder, INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{INDEX} names no files")
    return [_shard(folder, name) for name in sorted({str(name) for name in names.values()})]


def _shard(folder: Path, name: str) -> Path:
    """A file of weights that an index names; a cache of the hub links it to its own store, by a plain name."""
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ValueError(f"{INDEX} names {name[:80]}, which is no safetensors file of this folder")
    return folder / name
