"""Is this pair bridgeable? Every problem by name, from configs and tokenizers, before any weights are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig, PreTrainedTokenizerBase

from helmas_core.models.align import Tokenised, align_parts, shares
from helmas_core.models.backends import model_class, open_backend
from helmas_core.models.geometry import learned_positions, rope_parameters
from helmas_core.models.tokens import content_hash, encode, offsets

SAMPLE = """Mara keeps 24 hens. Each of them lays 5 eggs a week, and she sells a dozen for $3.50.
How much does she earn in 4 weeks?
24 * 5 = 120 eggs a week, which makes 120 * 4 = 480 in all.
480 / 12 = 40 dozens, so she earns 40 * 3.50 = $140.00.

def mean(values: list[float]) -> float:
    return sum(values) / len(values)

Die Brücke trägt, was geschrieben steht; le café est fermé jusqu'à demain.
"""
_KEEPS_KV = ("full_attention", "sliding_attention", "chunked_attention", "attention")
_WINDOWED = ("sliding_attention", "chunked_attention", "local")
_CONTINUES = "use a decoder-only language model"
_ATTENDS = "use a model with attention in every layer"


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
    if getattr(config, "auto_map", None) and model_class(config) is None:
        found.append(
            Problem(
                "needs Python code from its folder, which helmas never runs",
                where,
                "use a model that transformers knows",
            )
        )
    strange = [Problem(what, where, fix) for what, fix in (*_other_kind(config), *_other_cache(config))]
    found += strange
    if shared := getattr(text, "num_kv_shared_layers", 0):
        found.append(Problem(f"its last {shared} layers share another layer's cache", where, "use another model"))
    if strange:
        return found
    return found + _window_problems(config, where, source_tokens) + _rope_problems(text, where, source_tokens)


def _other_kind(config: PretrainedConfig) -> list[tuple[str, str]]:
    """(reason, what to do) of a model that does not read and go on from left to right."""
    if getattr(config, "is_encoder_decoder", False):
        return [("is an encoder-decoder model: what it has read lies in its encoder, not in a cache", _CONTINUES)]
    if not getattr(config, "is_decoder", False) and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        return [("is an encoder-only model: it reads in both directions and keeps no cache", _CONTINUES)]
    if model_class(config) is None and not getattr(config, "auto_map", None):
        return [
            (f"is no language model: transformers has none that continues a text for {config.model_type}", _CONTINUES)
        ]
    return []


def _other_cache(config: PretrainedConfig) -> list[tuple[str, str]]:
    """(reason, what to do) of a model that keeps something else than every token's keys and values in every layer."""
    text = config.get_text_config(decoder=True)
    if getattr(text, "kv_lora_rank", None):
        return [("keeps a latent (MLA) cache, not keys and values", "use a model with MHA, GQA or MQA")]
    kinds = list(getattr(text, "layer_types", None) or [])
    others = [kind for kind in dict.fromkeys(kinds) if kind not in _KEEPS_KV]
    recurrent = getattr(model_class(config), "_is_stateful", False) and not kinds
    if recurrent or not hasattr(text, "num_attention_heads"):
        return [
            (f"{text.model_type} keeps one state for all that it has read, no keys and values of each token", _ATTENDS)
        ]
    return [(_without(kind, [i for i, k in enumerate(kinds) if k == kind]), _ATTENDS) for kind in others]


def _without(kind: str, layers: list[int]) -> str:
    kept = "a recurrent state beside keys and values" if kind == "hybrid" else "no keys and values of each token"
    return f"{_named(layers)} {kind}, with {kept}"


def _named(layers: list[int]) -> str:
    return f"layer {layers[0]} is" if len(layers) == 1 else f"layers {_ranges(layers)} are"


def sliding_layers(config: PretrainedConfig) -> tuple[int, list[int]]:
    """(window in tokens, the layers that see no further back); (0, []) where all see everything."""
    text = config.get_text_config(decoder=True)
    sizes = (getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size"))
    window = next((size for size in sizes if size), 0)
    kinds = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None)
    if kinds is None:  # one size for all layers
        kinds = ["sliding_attention"] * text.num_hidden_layers if getattr(text, "sliding_window", None) else []
    layers = [i for i, kind in enumerate(kinds) if kind in _WINDOWED]
    return (window, layers) if window and layers else (0, [])


def _window_problems(config: PretrainedConfig, where: str, source_tokens: int) -> list[Problem]:
    """A window is no obstacle where it counts tokens; a family with attention of its own counts padding, too."""
    window, layers = sliding_layers(config)
    if not layers or source_tokens < window:
        return []
    what = f"{_named(layers)} bound to a window of {window} tokens"
    if open_backend(config):
        return [Problem(what, where, f"expect little of what sources say further back than {window} tokens", "warning")]
    return [Problem(what, where, f"set data.max_source_tokens below {window}, with room for question and answer")]


def _ranges(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:6]))
    return shown + (f" and {len(indices) - 6} more" if len(indices) > 6 else "")


def _rope_problems(text: PretrainedConfig, where: str, source_tokens: int) -> list[Problem]:
    kind = rope_parameters(text).get("rope_type", "default")
    places = learned_positions(text)
    if places is not None and source_tokens >= places:
        fix = f"set data.max_source_tokens below {places}, with room for question and answer"
        return [Problem(f"has learned positions for {places} tokens", where, fix)]
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


def alignment_problems(found: dict[str, Any] | None, least: float, side: str = "teacher") -> list[Problem]:
    """Whether too few of the student's tokens are one token each of the teacher called `side`."""
    if found is None or found["exact"] >= least:
        return []
    what = f"the tokenizers agree on {found['exact']:.0%} of the student's tokens, fewer than pair.min_alignment"
    where = "pair" if side == "teacher" else f"pair, {side}"
    return [Problem(what, where, "use two models of one family, or lower pair.min_alignment")]
