"""Record the queries that a model's attention really uses, without touching the model's own code.

A recording attention function, registered beside transformers' own with its own mask function, notes the queries
and passes on to the backend that the model had. (A backend without a registered mask function would run without
causality and padding.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from helmas_core.errors import CacheError
from helmas_core.models.backends import attention_function, attention_of, open_backend, usable_backend

_PREFIX = "helmas_record_"


@dataclass
class Recording:
    """Per layer, in order: queries [B, Hq, T, D] with RoPE on, the softmax scale, and the logit soft cap.

    With `whole`, the keys [B, H, P + T, D] that they meet and the mask between them too, None where it is causal.
    """

    whole: bool = False
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    caps: list[float | None] = field(default_factory=list)


_active: ContextVar[Recording | None] = ContextVar("recording", default=None)


def _recording_attention(name: str) -> Callable[..., Any]:
    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> Any:
        if (recording := _active.get()) is not None:
            recording.queries.append(query)
            recording.scales.append(options.get("scaling") or query.shape[-1] ** -0.5)
            recording.caps.append(options.get("softcap"))
            if recording.whole:
                recording.keys.append(key)
                recording.masks.append(mask)
        return attention_function(module, name)(module, query, key, value, mask, **options)

    return attend


def check_recordable(model: PreTrainedModel) -> None:
    """CacheError for a family whose attention cannot be looked into."""
    if not open_backend(model.config):
        what = f"the attention of {model.config.model_type} does not go through transformers' interface"
        raise CacheError(
            f"{what}: its queries cannot be recorded", fix='leave the loss "attention" out; ce and kl work'
        )


@contextmanager
def record_queries(model: PreTrainedModel, whole: bool = False) -> Iterator[Recording]:
    """Record the forward passes inside; the model's own backend comes back whatever happens.

    Raises CacheError for a family whose attention cannot be looked into.
    """
    check_recordable(model)
    before = attention_of(model)
    # transformers looks a flash backend up by its name
    backend = before if before.endswith(("eager", "sdpa")) else usable_backend(model.config, "sdpa")
    name = _PREFIX + backend
    AttentionInterface.register(name, _recording_attention(backend))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[backend])
    recording = Recording(whole)
    token = _active.set(recording)
    model.set_attn_implementation(name)
    try:
        yield recording
    finally:
        model.set_attn_implementation(before)
        _active.reset(token)
