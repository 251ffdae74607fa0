"""What a cached value would say by itself: the output projection, the final norm and the unembedding, nothing between.

The logit lens (nostalgebraist 2020) on the path of attention's values: W_U · norm(W_O v), after Elhage et al. 2021. A
direct path only, so it names what a layer writes towards the output and not what later layers make of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from helmas_core.errors import CacheError
from helmas_core.models.adapter import output_projections
from helmas_core.models.layers import decoder

_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm before the unembedding; CacheError for a family that names it otherwise."""
    for name in _NORMS:
        if isinstance(found := getattr(decoder(model), name, None), nn.Module):
            return found
    what = f"{model.config.model_type} has no final norm that is known: {', '.join(_NORMS)}"
    raise CacheError(what, fix="use another student to look through the lens")


@torch.no_grad()
def value_lens(model: PreTrainedModel, layer: int, values: Tensor, top: int = 3) -> list[list[int]]:
    """The `top` token ids that each of `values` [N, H, D] at `layer` speaks for, by all its query heads together."""
    name, holders = output_projections(model)
    project = getattr(holders[layer], name)
    groups = model.config.get_text_config(decoder=True).num_attention_heads // values.shape[1]
    wide = values.repeat_interleave(groups, 1).flatten(1)  # [N, Hq · D]
    written = project(wide.to(project.weight.device, project.weight.dtype))
    unembed = model.get_output_embeddings()
    if unembed is None:
        raise CacheError(f"{model.config.model_type} has no unembedding", fix="use another student to look with")
    logits = unembed(final_norm(model)(written))
    return logits.float().topk(top, -1).indices.tolist()
