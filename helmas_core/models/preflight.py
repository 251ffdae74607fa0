"""Is this pair bridgeable? Every problem by name, from configs and tokenizers, before any weights are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedTokenizerBase

from helmas_core.models.align import Tokenised, align_parts, shares
from helmas_core.models.geometry import rope_parameters
from helmas_core.models.tokens import content_hash, encode, offsets

SAMPLE = """Mara keeps 24 hens. Each of them lays 5 eggs a week, and she sells a dozen for $3.50.
How much does she earn in 4 weeks?
24 * 5 = 120 eggs a week, which makes 120 * 4 = 480 in all.
480 / 12 = 40 dozens, so she earns 40 * 3.50 = $140.00.

def mean(values: list[float]) -> float:
    return sum(values) / len(values)

Die Brücke trägt, was geschrieben steht; le café est fermé jusqu'à demain.
"""
_KEEPS_KV = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Problem:
    """One finding; only an "error" stops a run."""

    what: str
    where: str
    fix: str
    severity: str = "error"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def model_problems(config: PretrainedConfig, where: str, source_tokens: int) -> list[Problem]:
    """Problems of one model, from its config alone."""
    text = config.get_text_config(decoder=True)
    found = []
    if getattr(config, "auto_map", None) and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        found.append(
            Problem(
                "needs Python code from its folder, which helmas never runs",
                where,
                "use a model that transformers knows",
            )
        )
    if getattr(config, "is_encoder_decoder", False):
        found.append(Problem("is an encoder-decoder model", where, "use a decoder-only model"))
    if getattr(text, "kv_lora_rank", None):
        found.append(
            Problem("keeps a latent (MLA) cache, not keys and values", where, "use a model with MHA, GQA or MQA")
        )
    if shared := getattr(text, "num_kv_shared_layers", 0):
        found.append(Problem(f"its last {shared} layers share another layer's cache", where, "use another model"))
    return found + _layer_problems(text, where, source_tokens) + _rope_problems(text, where)


def _layer_problems(text: PretrainedConfig, where: str, source_tokens: int) -> list[Problem]:
    kinds = list(getattr(text, "layer_types", None) or [])
    found = [
        Problem(f"layer {i} is {kind}: it keeps no keys and values", where, "use a model with attention in every layer")
        for i, kind in enumerate(kinds)
        if kind not in _KEEPS_KV
    ]
    if not hasattr(text, "num_attention_heads"):
        found.append(
            Problem(f"{text.model_type} has no attention heads", where, "use a model with attention in every layer")
        )
    window = getattr(text, "sliding_window", None)
    sliding = [i for i, kind in enumerate(kinds) if kind in _KEEPS_KV[1:]]
    if window and sliding:
        severity = "error" if source_tokens > window else "warning"
        what = f"layers {_ranges(sliding)} attend over a window of {window} tokens"
        found.append(Problem(what, where, f"set data.max_source_tokens to {window} or less", severity))
    return found


def _ranges(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:6]))
    return shown + (f" and {len(indices) - 6} more" if len(indices) > 6 else "")


def _rope_problems(text: PretrainedConfig, where: str) -> list[Problem]:
    kind = rope_parameters(text).get("rope_type", "default")
    if kind == "dynamic":
        return [Problem("dynamic NTK RoPE changes its angles with the length", where, "use a model with fixed angles")]
    if kind == "longrope":
        return [
            Problem(
                "longrope switches its angles at the original context length", where, "keep sources below it", "warning"
            )
        ]
    return []


def sample_alignment(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """How the tokenizers cut SAMPLE, as `align.shares` tells it; None where both are one. Equal vocabulary sizes prove
    nothing, so contents are compared."""
    if content_hash(teacher) == content_hash(student):
        return None
    cut = [Tokenised(offsets(t, SAMPLE, len(encode(t, SAMPLE))), [(0, len(SAMPLE))]) for t in (teacher, student)]
    return shares([align_parts(*cut)])


def alignment_problems(found: dict[str, Any] | None, least: float) -> list[Problem]:
    """Whether too few of the student's tokens are one token of the teacher's each."""
    if found is None or found["exact"] >= least:
        return []
    what = f"the tokenizers agree on {found['exact']:.0%} of the student's tokens, fewer than pair.min_alignment"
    return [Problem(what, "pair", "use two models of one family, or lower pair.min_alignment")]
