"""A start for small models that have to look things up: two heads that already know how.

Layer 0 gets a head that attends to the token before (Elhage et al. 2021), layers after it one that attends to what
followed an equal token (Olsson et al. 2022). A model of this size finds them by itself only after millions of
examples; from here, training takes minutes. Everything is trained on from there, these heads included.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

REACH = 120  # tokens over which a match must survive RoPE
CONSTANT = 4.0  # size of the embeddings' constant channel, in units of the others


def _slow_channels(frequencies: Tensor, head_dim: int) -> list[int]:
    """Head channels that RoPE hardly turns within REACH tokens."""
    slow = (frequencies * REACH < 1.2).nonzero()[:, 0].tolist()
    return [*slow, *(pair + head_dim // 2 for pair in slow)]


@torch.no_grad()
def prime(
    model: Any,
    theta: float,
    quiet: float,
    matching: int,
    scale: float,
    family: Any = None,
) -> None:
    """Set the heads up in place, `matching` layers of the second kind; what layers add besides is scaled by `quiet`.
    With `family`, words mean what they mean to that model: see `_shared_words`.
    `scale` is the size of the residual stream: the smaller, the sooner what training adds to it counts."""
    config = model.config
    width, dim = config.hidden_size, config.head_dim
    frequencies = theta ** (-torch.arange(dim // 2) / (dim // 2))
    slow = _slow_channels(frequencies, dim)
    embeddings = model.get_input_embeddings().weight
    embeddings.normal_(0, 1 / math.sqrt(width))
    content = torch.randn(len(slow), width - 1) / math.sqrt(width - 1)
    if family is not None:
        embeddings[:, 1:] = _shared_words(family, width - 1, len(slow)) / math.sqrt(width)
        content = torch.eye(len(slow), width - 1)
    embeddings[:, 0] = CONSTANT / math.sqrt(width)
    before = torch.linalg.qr(torch.randn(width, len(slow)))[0]  # where layer 0 writes the token before
    for index, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.weight.mul_(quiet)
        attention = layer.self_attn
        for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
            part.weight.normal_(0, 0.02)
        attention.o_proj.weight.mul_(0.2)
        if hasattr(attention, "q_norm") and index <= matching:
            attention.q_norm.weight.fill_(3.0)  # normalised queries and keys need a sharper softmax
        views = _views(attention, config)
        if index == 0:
            _token_before(*views, frequencies, slow, content, before)
        elif index <= matching:
            _equal_token(*views, slow, content, before)
        attention.o_proj.weight.mul_(scale)
        layer.mlp.down_proj.weight.mul_(scale)
    embeddings.mul_(scale)


def _shared_words(family: Any, width: int, kept: int) -> Tensor:
    """Embeddings of `family`, projected to `width` channels of unit variance: models of one family see words alike,
    and a bridge can only translate words that it never met if they do. The first `kept` channels are what the
    family's first layer tells a token of the one before it."""
    words = family.get_input_embeddings().weight.float()
    words = words - words.mean(0)
    first = family.model.layers[0]
    values = first.self_attn.v_proj.weight.float() * first.input_layernorm.weight.float()
    told = values[: family.config.head_dim]
    leading = torch.linalg.svd(told, full_matrices=False)[2][:kept]
    basis = torch.linalg.qr(torch.cat((leading, values, torch.randn(width, words.shape[1]))).T)[0][:, :width]
    projected = words @ basis
    return projected / projected.std(0)


def _views(attention: Any, config: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The projections by head: q [Hq, D, width], k and v [H, D, width], o [width, Hq, D]."""
    width, dim = config.hidden_size, config.head_dim
    q, k, v = (getattr(attention, name).weight.view(-1, dim, width) for name in ("q_proj", "k_proj", "v_proj"))
    return q, k, v, attention.o_proj.weight.view(width, -1, dim)


def _token_before(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, frequencies: Tensor, slow: list[int], content: Tensor, before: Tensor
) -> None:
    """The constant channel as query, and turned on by one position as key; the values are what tokens are."""
    half = len(frequencies)
    fast = [pair for pair in range(half) if pair not in slow]
    q[0], k[0], v[0] = 0.0, 0.0, 0.0
    o[:, 0] = 0.0
    for pair in fast:
        q[0, pair, 0] = 3.0
        k[0, pair, 0] = 3.0 * math.cos(frequencies[pair])
        k[0, pair + half, 0] = 3.0 * math.sin(frequencies[pair])
    v[0, slow, 1:] = content
    o[:, 0, slow] = 0.2 * before


def _equal_token(q: Tensor, k: Tensor, v: Tensor, o: Tensor, slow: list[int], content: Tensor, before: Tensor) -> None:
    """What I am as query, what stood before as key; the values raise the token found."""
    dim, width = v.shape[1:]
    q[0], k[0], v[0] = 0.0, 0.0, 0.0
    o[:, 0] = 0.0
    q[0, slow, 1:] = 2.0 * content
    k[0, slow] = 2.0 * before.T
    found = torch.linalg.qr(torch.randn(width - 1, dim))[0]
    v[0, :, 1:] = found.T
    o[1:, 0] = 1.5 * found
