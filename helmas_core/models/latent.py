"""Thinking without words: a model goes on from what it has read by steps in which its last state is its next input.

After LatentMAS (arXiv 2511.20639). No token is sampled, so nothing is lost to words; what is handed over is the cache
of what was read and of the steps. Shapes: B batch, T tokens, S steps, V vocabulary, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from helmas_core.models.cache import KVCache, extend, read

_RIDGE = 1e-3  # of the mean power of a channel


class Latent:
    """`steps` of thought after all that a model reads, with its map from last hidden states to its own inputs."""

    def __init__(self, model: PreTrainedModel, steps: int) -> None:
        self.model, self.steps = model, steps
        self._map: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor, hidden: Sequence[int] = ()) -> KVCache:
        """Of ids [B, T], padded on the left, the cache of T + S places; the steps stand behind each row's last."""
        last = self.model.config.get_text_config(decoder=True).num_hidden_layers
        state = read(self.model, ids, mask, (*hidden, last))
        for _ in range(self.steps):
            state = extend(self.model, state, self.inputs(state.hidden[-1][:, 0, -1:]), (*hidden, last))
        return state.without_last_hidden()

    def inputs(self, states: Tensor) -> Tensor:
        """Last hidden states [B, 1, E] as input embeddings: mapped, then scaled to the embeddings' usual length."""
        if self._map is None:
            weight, length = aligning(self.model)
            self._map = weight.to(states.device), length.to(states.device)
        weight, length = self._map
        mapped = states.float() @ weight
        return (mapped * (length / mapped.norm(dim=-1, keepdim=True).clamp(min=1e-6))).to(states.dtype)


@torch.no_grad()
def aligning(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """(W [E, E], mean length of an input embedding): min ‖W_out W − W_in‖² + λ‖W‖² over all words, in fp32.

    A state that speaks for a word, as the output embeddings read it, becomes that word's input embedding.
    """
    head = model.get_output_embeddings()
    assert head is not None
    out: Tensor = head.weight.float()
    words = torch.arange(len(out), device=out.device)
    known = model.get_input_embeddings()(words).float()  # as the model scales them
    gram = out.T @ out
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    return torch.linalg.solve(gram, out.T @ known), known.norm(dim=1).mean()
