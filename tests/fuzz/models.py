"""Files of a model: settings, tokenizer, weights, gguf."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np

from helmas_core.errors import DataError, HelmasError
from helmas_core.models.gguf_header import gguf_values
from helmas_core.models.loading import find_problems
from helmas_core.models.sources import check_local_size, read_config, read_tokenizer
from tests.fuzz.bridges import pair
from tests.fuzz.format import Format, config

LAB = Path(__file__).parents[2] / "helmas_core/lab/student"


def _model(folder: Path) -> None:
    """The lab's tokenizer with a tiny model, its weights in one file and in shards."""
    pair().student.model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(LAB / name, folder / name)


def _sharded(folder: Path) -> None:
    pair().student.model.save_pretrained(folder, max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(LAB / name, folder / name)


def _read_model(folder: Path) -> None:
    """What `doctor` and `load_pair` do before they read weights; problems that they list count as refused."""
    both = {"teacher": str(folder), "student": str(folder)}
    found = find_problems(config().model_copy(update={"pair": config().pair.model_copy(update=both)}))
    if wrong := [problem for problem in found if problem.severity == "error"]:
        raise HelmasError(wrong[0].what)


def _read_tokenizer(folder: Path) -> None:
    read_tokenizer(str(folder))


def _read_weights(folder: Path) -> None:
    check_local_size(str(folder), read_config(str(folder)))


def make_gguf(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(16)
    writer.add_token_list(["<s>", "a", "b\u00e9"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.0, 2.0])
    writer.add_tensor("token_embd.weight", np.ones((3, 16), dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(folder: Path) -> None:
    try:
        gguf_values(folder / "model.gguf")
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error


SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json")


FORMATS = (
    Format("model settings", "json", 1, SETTINGS, _model, _read_model),
    Format("tokenizer", "json", 1, ("tokenizer.json",), _model, _read_tokenizer),
    Format("weights", "tensors", 1, ("model.safetensors",), _model, _read_weights),
    Format("weights index", "json", 1, ("model.safetensors.index.json",), _sharded, _read_weights),
    Format("gguf", "bytes", 18, ("model.gguf",), make_gguf, _read_gguf),
)
