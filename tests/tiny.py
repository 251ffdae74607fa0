"""Random tiny models of every family, real transformers code with a few thousand weights, and pairs made of them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from helmas_core.models.hardware import Hardware
from helmas_core.models.pair import Member, Pair, freeze, read_tokenizer
from helmas_core.models.tokens import content_hash

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
_FAMILIES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 512, "layer_types": None, "query_pre_attn_scalar": 16}),
    "yarn": (LlamaConfig, {"rope_parameters": YARN, "max_position_embeddings": 256}),
}
FAMILIES = tuple(_FAMILIES)


def tiny_model(
    family: str = "llama",
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    seed: int = 0,
    **more: Any,
) -> PreTrainedModel:
    """A random fp32 model in eval mode; weights are large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    kind, extra = _FAMILIES[family]
    shape: dict[str, Any] = dict(  # noqa: C408
        vocab_size=1024,
        hidden_size=heads * head_dim,
        intermediate_size=2 * heads * head_dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        initializer_range=0.2,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
    )
    config = kind(**{**shape, **extra, **more})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for parameter in (p for name, p in model.named_parameters() if "bias" in name):
        torch.nn.init.normal_(parameter)  # zero biases would hide a mistake with them
    return model.float().eval()


def tiny_pair(teacher: PreTrainedModel, student: PreTrainedModel) -> Pair:
    """Any two tiny models as a pair over the lab's tokenizer."""
    tokenizer = read_tokenizer("lab:student")
    hardware = Hardware(torch.device("cpu"), torch.float32, "sdpa", ())
    members: list[Member] = [freeze("tiny:teacher", teacher)]
    members.append(members[0] if student is teacher else freeze("tiny:student", student))
    return Pair(members[0], members[1], tokenizer, None, content_hash(tokenizer), hardware)


def unequal_pair() -> Pair:
    """Different families, layers, KV heads, head dims and theta."""
    theta = {"rope_type": "default", "rope_theta": 2000.0}
    teacher = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1)
    return tiny_pair(
        teacher, tiny_model("llama", layers=3, heads=6, kv_heads=2, head_dim=24, seed=2, rope_parameters=theta)
    )
