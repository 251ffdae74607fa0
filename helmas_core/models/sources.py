"""What lies behind a model's name: where it is, its configuration, tokenizer and size. No weight is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from helmas_core.errors import HelmasError, PairError
from helmas_core.foreign import why
from helmas_core.models.folder import check_settings, check_size, weights_held

Result = TypeVar("Result")
LAB = "lab:"


def locate(source: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` takes for a hub id, a folder, a `.gguf` file or `lab:NAME`."""
    if source.startswith(LAB):
        folder = Path(__file__).parents[1] / "lab" / source.removeprefix(LAB)
        if not folder.is_dir():
            raise PairError(f'no lab model "{source}"', where="pair", fix="use lab:teacher or lab:student")
        return str(folder), {}
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise PairError("no such GGUF file", where=source, fix="check the path")
        return str(path.parent), {"gguf_file": path.name}
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_local and not path.is_dir():
        raise PairError("no such model folder", where=source, fix="check the path, or give a hub id like owner/name")
    return (str(path) if path.is_dir() else source), {}


def _checked(source: str) -> tuple[str, dict[str, str]]:
    """`locate`, after a look through what lies there; models of the hub are as the hub has them."""
    where, extra = locate(source)
    if extra:
        weights_held(Path(where, extra["gguf_file"]))
    elif Path(where).is_dir():
        check_settings(Path(where))
    return where, extra


def guarded(call: Callable[[], Result], source: str) -> Result:
    """What a library makes of a model's files; whatever else than memory fails it, is a PairError."""
    try:
        return call()
    except (HelmasError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        fix = "use a model that transformers knows"
        if isinstance(error, OSError):
            fix = "give a local folder, or download the model first where there is a network"
        raise PairError(f"cannot load: {why(error)}", where=source, fix=fix) from error


def read_config(source: str, revision: str | None = None) -> PretrainedConfig:
    where, extra = _checked(source)
    return guarded(
        lambda: AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False, **extra), source
    )


def read_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    where, extra = _checked(source)
    load = AutoTokenizer.from_pretrained
    return guarded(lambda: load(where, revision=revision, trust_remote_code=False, **extra), source)


def check_local_size(source: str, config: PretrainedConfig) -> None:
    """PairError where local files hold less than the configuration asks for, before room is made for it."""
    where, extra = locate(source)
    packed = getattr(config, "quantization_config", None) is not None  # such weights count otherwise
    if (extra or Path(where).is_dir()) and not packed:
        check_size(Path(where, extra.get("gguf_file", "")), count_parameters(config, source))


def count_parameters(config: PretrainedConfig, source: str) -> int:
    """Of a model without storage."""

    def count() -> int:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return sum(p.numel() for p in model.parameters())

    return guarded(count, source)
