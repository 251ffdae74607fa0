"""Attention backends: which of them a model can run on, and sliding windows that padding does not shorten.

transformers cuts a window by places in the cache. Where padding lies between a source and what follows it, places lie
further apart than positions; the backends of this file count the tokens instead. (Flash attention takes padding out.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_WINDOWED = "helmas_windowed_"


def model_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class that transformers would load as a language model, if it has one."""
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return found[0] if isinstance(found, tuple) else found


def usable_backend(config: PretrainedConfig, wanted: str) -> str:
    """`wanted`, or the next best that the family has: sdpa, then eager, which all have."""
    family = model_class(config)
    flags = {"flash_attention_2": "_supports_flash_attn", "sdpa": "_supports_sdpa"}
    choices = [wanted, *(name for name in ("sdpa", "eager") if name != wanted)]
    return next(name for name in choices if getattr(family, flags.get(name, ""), True))


def open_backend(config: PretrainedConfig) -> bool:
    """Whether the family's attention goes through transformers' interface, so that it can be seen and exchanged."""
    family = model_class(config)
    return family is not None and hasattr(sys.modules[family.__module__], "ALL_ATTENTION_FUNCTIONS")


def attention_of(model: PreTrainedModel) -> str:
    """The name of the attention backend that a model runs on."""
    return str(getattr(model.config, "_attn_implementation"))  # noqa: B009 - transformers has no public name for it


def attention_function(module: nn.Module, name: str) -> Callable[..., Any]:
    """The backend called `name`; "eager" lives in the model's own file."""
    if name in ALL_ATTENTION_FUNCTIONS:
        return ALL_ATTENTION_FUNCTIONS[name]
    return sys.modules[type(module).__module__].eager_attention_forward


def count_windows_by_token(model: PreTrainedModel) -> None:
    """From now on the sliding windows of `model` hold so many tokens, whatever padding lies between them."""
    name = attention_of(model)
    if name in ("eager", "sdpa") and open_backend(model.config):
        AttentionInterface.register(_WINDOWED + name, _attention(name))
        AttentionMaskInterface.register(_WINDOWED + name, _mask(name))
        model.set_attn_implementation(_WINDOWED + name)


def _attention(name: str) -> Callable[..., Any]:
    def attend(module: nn.Module, *args: Any, **options: Any) -> Any:
        return attention_function(module, name)(module, *args, **options)

    return attend


def _mask(name: str) -> Callable[..., Any]:
    def mask(
        *args: Any,
        mask_function: Callable[..., Any],
        attention_mask: Tensor | None = None,
        local_size: int | None = None,
        **options: Any,
    ) -> Any:
        if local_size is not None and attention_mask is not None:
            mask_function = _by_token(mask_function, attention_mask.long().cumsum(1))
        given = {"mask_function": mask_function, "attention_mask": attention_mask, "local_size": local_size}
        return ALL_MASK_ATTENTION_FUNCTIONS[name](*args, **given, **options)

    return mask


def _by_token(inner: Callable[..., Any], counts: Tensor) -> Callable[..., Any]:
    """A mask function of places, given the number of real tokens up to each place, [B, P + N], in their stead."""

    def at(row: Any, head: Any, query: Any, key: Any) -> Any:
        return inner(row, head, counts[row, query], counts[row, key])

    return at
