"""The tokenizer as the hand-off sees it: content hash, chat template pieces, batches of ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from helmas_core.errors import PairError

_PART = ("model", "pre_tokenizer", "normalizer", "added_tokens")


def content_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of what decides how text becomes ids: vocabulary, merges, splitting, added tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise PairError(
            "a fast tokenizer is needed", where=tokenizer.name_or_path, fix="add tokenizer.json to the model"
        )
    parts = json.loads(backend.to_str())
    kept = json.dumps({key: parts.get(key) for key in _PART}, sort_keys=True)
    return hashlib.sha256(kept.encode()).hexdigest()


class ChatTemplate:
    """`template(user_text)` → (user turn, assistant header), cut from the tokenizer's own template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @lru_cache(maxsize=1)  # noqa: B019 - one template lives as long as its pair
    def _pieces(self) -> tuple[str, str]:
        mark = "\x02helmas\x03"
        turn = [{"role": "user", "content": mark}]
        text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, after = str(text).split(mark)
        return before, after

    def __call__(self, user: str) -> tuple[str, str]:
        before, after = self._pieces()
        return before + user, after


def chat_template(tokenizer: PreTrainedTokenizerBase, wanted: bool) -> ChatTemplate | None:
    """The template of an instruct model; None for a base model or when it is not wanted."""
    return ChatTemplate(tokenizer) if wanted and tokenizer.chat_template else None


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of `text` alone, with nothing added."""
    return tokenizer(text, add_special_tokens=False).input_ids if text else []


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """ids and mask, [B, T] each, padded on the left."""
    width = max(1, *map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def endings(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer."""
    named = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "</s>")
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[name] for name in named if name in vocabulary}
    return sorted(found | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()))
