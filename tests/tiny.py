"""Random tiny models of every family, real transformers code with a few thousand weights, and pairs made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
)

from helmas_core.models.backends import usable_backend
from helmas_core.models.hardware import Hardware
from helmas_core.models.loading import freeze
from helmas_core.models.pair import Member, Pair
from helmas_core.models.sources import read_tokenizer
from helmas_core.models.tokens import content_hash

_PLACES = {"original_max_position_embeddings": 64, "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", **_PLACES}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_PLACES}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
_FAMILIES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {}),
    "gemma2": (Gemma2Config, {"sliding_window": 512, "query_pre_attn_scalar": 16}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 512, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}),
    "phi3": (
        Phi3Config,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "olmo2": (Olmo2Config, {}),
    "granite": (GraniteConfig, {"attention_multiplier": 0.2, "residual_multiplier": 0.5, "attention_bias": True}),
    "stablelm": (StableLmConfig, {"qk_layernorm": True, "use_qkv_bias": True}),
    "gpt_neox": (GPTNeoXConfig, {}),
    "gpt2": (GPT2Config, {"n_positions": 256}),
    "gpt_neo": (GPTNeoConfig, {"max_position_embeddings": 256, "window_size": 128}),
    "smollm3": (SmolLM3Config, {"no_rope_layer_interval": 2}),
    "mixtral": (MixtralConfig, {"num_local_experts": 4}),
    "qwen3_moe": (Qwen3MoeConfig, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
    "yarn": (LlamaConfig, {"rope_parameters": YARN, "max_position_embeddings": 256}),
    "llama3": (LlamaConfig, {"rope_parameters": LLAMA3, "max_position_embeddings": 256}),
    "linear": (LlamaConfig, {"rope_parameters": LINEAR, "max_position_embeddings": 256}),
}
FAMILIES = tuple(_FAMILIES)
ONE_HEAD_EACH = ("gpt_neox", "gpt2", "gpt_neo")  # as many KV heads as heads, whatever is asked for


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
    config = tiny_config(family, layers, heads, kv_heads, head_dim, **more)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=usable_backend(config, "sdpa"))
    for parameter in (p for name, p in model.named_parameters() if "bias" in name):
        torch.nn.init.normal_(parameter)  # zero biases would hide a mistake with them
    return model.float().eval()


def tiny_config(
    family: str, layers: int = 3, heads: int = 4, kv_heads: int = 2, head_dim: int = 16, **more: Any
) -> PretrainedConfig:
    """A family takes of the shape what its config knows."""
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
    if family == "gpt_neo":
        extra = {**extra, "attention_types": [[(["global", "local"] * layers)[:layers], 1]]}
    known = kind()
    taken = {key: value for key, value in shape.items() if hasattr(known, key) or key == "head_dim"}
    return kind(**taken | extra | more)


def tiny_pair(teacher: PreTrainedModel, student: PreTrainedModel) -> Pair:
    """Any two tiny models as a pair over the lab's tokenizer."""
    tokenizer = read_tokenizer("lab:student")
    hardware = Hardware(torch.device("cpu"), torch.float32, "sdpa", ())
    members: list[Member] = [freeze("tiny:teacher", teacher)]
    members.append(members[0] if student is teacher else freeze("tiny:student", student))
    return Pair(members[0], members[1], tokenizer, None, content_hash(tokenizer), hardware)


def with_teachers(pair: Pair, *models: PreTrainedModel) -> Pair:
    """`pair` with further teachers."""
    members = [freeze(f"tiny:more-{place}", model) for place, model in enumerate(models)]
    return replace(pair, more=tuple(replace(pair, teacher=member) for member in members))


def chorus_pair() -> Pair:
    """The unequal pair with a second teacher that is unlike the first one in the same ways."""
    return with_teachers(unequal_pair(), tiny_model("qwen2", layers=2, heads=2, kv_heads=1, head_dim=32, seed=3))


def unequal_pair() -> Pair:
    """Different families, layers, KV heads, head dims and theta."""
    theta = {"rope_type": "default", "rope_theta": 2000.0}
    teacher = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1)
    return tiny_pair(
        teacher, tiny_model("llama", layers=3, heads=6, kv_heads=2, head_dim=24, seed=2, rope_parameters=theta)
    )
