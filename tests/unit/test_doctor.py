"""What `doctor` says of a family, from nothing but a config.json beside a tokenizer: shapes, size, verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from helmas_cli.app import main
from helmas_core.config import Config, TrainConfig
from helmas_core.errors import PairError
from helmas_core.layering import load_config
from helmas_core.models.doctor import diagnose
from helmas_core.models.hardware import resolve_hardware
from helmas_core.models.loading import load_pair
from helmas_core.models.pair import Pair

pytestmark = pytest.mark.unit
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3["original_max_position_embeddings"] = 8192
_PART = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}

# Released models: their config, and (layers, heads, KV heads, head dim, width, RoPE) and parameters as published.
KNOWN: dict[str, tuple[str, dict[str, Any], tuple[int, int, int, int, int, str], int]] = {
    "Llama 3.2 1B": (
        "llama",
        {"intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True, "rope_parameters": _LLAMA3},
        (16, 32, 8, 64, 2048, "llama3"),
        1_235_814_400,
    ),
    "Mistral 7B": ("mistral", {"intermediate_size": 14336}, (32, 32, 8, 128, 4096, "default"), 7_241_732_096),
    "Qwen2 1.5B": (
        "qwen2",
        {"intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True},
        (28, 12, 2, 128, 1536, "default"),
        1_543_714_304,
    ),
    "Qwen2.5 0.5B": (
        "qwen2",
        {"intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True},
        (24, 14, 2, 64, 896, "default"),
        494_032_768,
    ),
    "Qwen3 0.6B": (
        "qwen3",
        {"intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True},
        (28, 16, 8, 128, 1024, "default"),
        596_049_920,
    ),
    "Gemma 2 2B": ("gemma2", {}, (26, 8, 4, 256, 2304, "default"), 2_614_341_888),
    "Gemma 3 1B": (
        "gemma3_text",
        {"intermediate_size": 6912, "vocab_size": 262144, "sliding_window": 512},
        (26, 4, 1, 256, 1152, "default"),
        999_885_952,
    ),
    "Phi-3 mini": ("phi3", {"sliding_window": 2047}, (32, 32, 32, 96, 3072, "default"), 3_821_079_552),
    "OLMo 2 1B": (
        "olmo2",
        {"intermediate_size": 8192, "vocab_size": 100352},
        (16, 16, 16, 128, 2048, "default"),
        1_484_916_736,
    ),
    "Granite 3.3 2B": (
        "granite",
        {"intermediate_size": 8192, "vocab_size": 49159, "tie_word_embeddings": True},
        (40, 32, 8, 64, 2048, "default"),
        2_533_539_840,
    ),
    "StableLM 2 1.6B": (
        "stablelm",
        {"intermediate_size": 5632, "vocab_size": 100352, "use_qkv_bias": True, "rope_parameters": _PART},
        (24, 32, 32, 64, 2048, "default"),
        1_644_515_328,
    ),
    "Pythia 160M": (
        "gpt_neox",
        {"intermediate_size": 3072, "vocab_size": 50304, "rope_parameters": _PART},
        (12, 12, 12, 64, 768, "default"),
        162_322_944,
    ),
    "GPT-2": ("gpt2", {}, (12, 12, 12, 64, 768, "none"), 124_439_808),
    "GPT-Neo 125M": (
        "gpt_neo",
        {"attention_types": [[["global", "local"], 6]]},
        (12, 12, 12, 64, 768, "none"),
        125_198_592,
    ),
    "SmolLM3 3B": (
        "smollm3",
        {"intermediate_size": 11008, "vocab_size": 128256, "tie_word_embeddings": True},
        (36, 16, 4, 128, 2048, "default"),
        3_075_098_624,
    ),
    "Mixtral 8x7B": ("mixtral", {"intermediate_size": 14336}, (32, 32, 8, 128, 4096, "default"), 46_702_792_704),
    "Qwen3 30B-A3B": (
        "qwen3_moe",
        {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "vocab_size": 151936},
        (48, 32, 4, 128, 2048, "default"),
        30_532_122_624,
    ),
}
# Families without a usable cache, and words of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "mamba keeps one state for all that it has read, no keys and values of each token"),
    "mamba2": ({}, "mamba2 keeps one state"),
    "rwkv": ({}, "rwkv keeps one state"),
    "jamba": ({"num_hidden_layers": 4, "attn_layer_offset": 1, "attn_layer_period": 2}, "layers 0, 2 are linear"),
    "bamba": ({"num_hidden_layers": 2, "attn_layer_indices": [1]}, "layer 0 is linear_attention, with no keys"),
    "zamba2": ({}, "are hybrid, with a recurrent state beside keys and values"),
    "falcon_h1": ({}, "are hybrid, with a recurrent state beside keys and values"),
    "deepseek_v2": ({}, r"keeps a latent \(MLA\) cache"),
    "deepseek_v3": ({}, r"keeps a latent \(MLA\) cache"),
    "t5": ({}, "is an encoder-decoder model"),
    "bert": ({}, "is an encoder-only model: it reads in both directions"),
    "modernbert": ({}, "is an encoder-only model"),
    "vit": ({}, "is no language model"),
}


def _folder(path: Path, pair: Pair, kind: str, options: dict[str, Any]) -> Path:
    AutoConfig.for_model(kind, **options).save_pretrained(path)
    pair.tokenizer.save_pretrained(path)
    return path


def _config(teacher: Path | str, student: Path | str, *more: str) -> Config:
    return load_config(["lab"], [f"pair.teacher={teacher}", f"pair.student={student}", *more])


@pytest.mark.parametrize("name", KNOWN)
def test_a_family_is_measured_from_its_config(name: str, lab_pair: Pair, tmp_path: Path) -> None:
    kind, options, (layers, heads, kv_heads, dim, width, rope), parameters = KNOWN[name]
    shape = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width}
    if kind not in ("gpt_neox", "gpt2", "gpt_neo"):
        shape |= {"num_key_value_heads": kv_heads, "head_dim": dim}
    folder = _folder(tmp_path, lab_pair, kind, {**shape, **options})
    found = diagnose(_config(folder, folder, "data.max_source_tokens=200", "pair.dtype=bf16"))
    assert (found["ok"], found["problems"], found["geometry_from"]) == (True, [], "config")
    teacher = found["geometry"]["teacher"]
    assert teacher == found["geometry"]["student"]
    measured = ("layers", "attention_heads", "kv_heads", "head_dim", "hidden_size", "rope_type")
    assert tuple(teacher[what] for what in measured) == (layers, heads, kv_heads, dim, width, rope)
    assert teacher["parameters"] == parameters
    assert found["kv_bytes_per_token"]["teacher"] == 4 * layers * kv_heads * dim
    parts = found["memory_gib"]
    assert parts["teacher"] == pytest.approx(2 * parameters / 2**30, abs=0.001)  # all experts lie in memory
    assert sum(found["needed_gib"].values()) == pytest.approx(sum(parts.values()), abs=0.01)
    assert found["bridge_parameters"] > 0


@pytest.mark.parametrize("kind", REFUSED)
def test_a_family_without_a_usable_cache_is_refused_with_the_reason(kind: str, lab_pair: Pair, tmp_path: Path) -> None:
    options, reason = REFUSED[kind]
    folder = _folder(tmp_path, lab_pair, kind, options)
    for side, config in (
        ("teacher", _config(folder, "lab:student")),
        ("student", _config("lab:teacher", folder)),
    ):
        found = diagnose(config)
        assert (found["ok"], found["geometry"]) == (False, {})
        assert {problem["where"] for problem in found["problems"]} == {side}
        assert all(problem["fix"].startswith("use a") for problem in found["problems"])
        with pytest.raises(PairError, match=f"cannot be bridged: {side} .*{reason}"):
            load_pair(config, resolve_hardware(config))


def test_a_loss_that_a_student_cannot_serve_is_named(lab_pair: Pair, tmp_path: Path) -> None:
    folder = _folder(tmp_path, lab_pair, "gpt_neo", {"num_layers": 2, "attention_types": [[["global", "local"], 1]]})
    sizes = "data.max_source_tokens=200"
    plain = _config("lab:teacher", folder, sizes)
    asking = plain.model_copy(update={"train": TrainConfig()})  # whose stages ask for it, as the lab's do not
    [problem] = diagnose(asking)["problems"]
    assert (problem["severity"], problem["where"]) == ("warning", "student")
    assert "cannot be looked into" in problem["what"] and "attention" in problem["fix"]
    assert diagnose(plain)["problems"] == []
    assert diagnose(_config(folder, "lab:student", sizes).model_copy(update={"train": TrainConfig()}))["problems"] == []


def test_the_command_exits_with_1_and_says_why(
    lab_pair: Pair, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path, lab_pair, "mamba", {})
    assert main(["doctor", "-p", "lab", "-s", f"pair.teacher={folder}"]) == 1
    said = " ".join(capfd.readouterr().out.split())
    assert "this pair cannot be bridged - teacher: mamba keeps one state for all that it has read" in said
    assert "use a model with attention in every layer" in said
