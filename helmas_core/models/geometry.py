"""A model's shape: from its config where that is enough, and from a probe cache where it counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from helmas_core.config import GeometryConfig
from helmas_core.errors import PairError
from helmas_core.models.cache import capture


@dataclass(frozen=True)
class Geometry:
    """What a bridge needs to know of a model; `parameters` is 0 where only the config was read."""

    model_type: str
    layers: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    rope_theta: float | None
    rope_type: str
    parameters: int

    def kv_bytes_per_token(self, element_size: int = 2) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * element_size

    def shape(self) -> dict[str, Any]:
        """The part that an artefact is bound to."""
        kept = ("model_type", "layers", "kv_heads", "head_dim", "rope_theta", "rope_type")
        return {key: value for key, value in asdict(self).items() if key in kept}


def rope_parameters(config: PretrainedConfig) -> dict[str, Any]:
    """The first set of RoPE parameters: transformers 5 nests them by layer type where layers differ."""
    found = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in found.values() if isinstance(value, dict)]
    return nested[0] if nested else found


def learned_positions(config: PretrainedConfig) -> int | None:
    """How many positions a model without RoPE has learned; None where there is no such limit."""
    text = config.get_text_config(decoder=True)
    return None if rope_parameters(text) else getattr(text, "max_position_embeddings", None)


def from_config(config: PretrainedConfig) -> Geometry:
    text = config.get_text_config(decoder=True)
    heads, rope = text.num_attention_heads, rope_parameters(text)
    return Geometry(
        model_type=text.model_type,
        layers=text.num_hidden_layers,
        attention_heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        rope_theta=rope.get("rope_theta"),
        rope_type=rope.get("rope_type", "default") if rope else "none",
        parameters=0,
    )


def from_profile(shipped: GeometryConfig) -> Geometry:
    return Geometry(**shipped.model_dump(), rope_type="default")


def probe(model: PreTrainedModel) -> Geometry:
    """The shape that the cache really has, measured with two tokens; layers that differ are refused."""
    ids = torch.tensor([[0, 1]], device=model.device)
    cache = capture(model, ids, torch.ones_like(ids))
    shapes = {(k.shape[1], k.shape[3], v.shape[1], v.shape[3]) for k, v in zip(cache.keys, cache.values, strict=True)}
    heads, dim, *values = next(iter(shapes))
    if len(shapes) > 1 or values != [heads, dim]:
        raise PairError(
            "layers or keys and values differ in shape", where=model.config.model_type, fix="use another model"
        )
    found = from_config(model.config)
    parameters = sum(p.numel() for p in model.parameters())
    return replace(found, layers=cache.layers, kv_heads=heads, head_dim=dim, parameters=parameters)
