"""The tokenizer as the hand-off sees it: content hash, chat template pieces, batches of ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from helmas_core.errors import PairError
from helmas_core.foreign import why
from helmas_core.models.align import Span

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
    """The tokenizer's own template, cut at the end of the last user text: (all before, what opens the answer)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @lru_cache(maxsize=8)  # noqa: B019 - one template lives as long as its pair
    def _pieces(self, earlier: tuple[tuple[str, str], ...], system: str) -> tuple[str, str]:
        mark = "\x02helmas\x03"
        opening = [("system", system)] if system else []
        turns = [turn for user, answer in earlier for turn in (("user", user), ("assistant", answer))]
        messages = [{"role": role, "content": text} for role, text in [*opening, *turns, ("user", mark)]]
        # Templates that know no thinking mode ignore the last flag; a written-out monologue would be cut off.
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            before, after = str(text).split(mark)
        except Exception as error:  # a template is a program of the model's, and may fail in any way
            fix = "set data.chat_template = false, or use another model"
            raise PairError(f"its chat template cannot be used ({why(error)})", where=self._where, fix=fix) from error
        return before, after

    @property
    def _where(self) -> str:
        return str(self.tokenizer.name_or_path)

    def __call__(self, user: str, earlier: Sequence[tuple[str, str]] = (), system: str = "") -> tuple[str, str]:
        before, after = self._pieces(tuple(earlier), system)
        return before + user, after


@dataclass(frozen=True)
class Codec:
    """A tokenizer, the chat template that goes with it, and the hash of its contents."""

    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate | None
    hash: str


def chat_template(tokenizer: PreTrainedTokenizerBase, wanted: bool) -> ChatTemplate | None:
    """The template of an instruct model; None for a base model or when it is not wanted."""
    return ChatTemplate(tokenizer) if wanted and tokenizer.chat_template else None


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of `text` alone, with nothing added."""
    return tokenizer(text, add_special_tokens=False).input_ids if text else []


def offsets(tokenizer: PreTrainedTokenizerBase, text: str, count: int) -> list[Span]:
    """The characters of each of the `count` tokens of `text`; what opens the sequence before them has none."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping if text else []
    return [(0, 0)] * (count - len(found)) + [(begin, end) for begin, end in found]


def encode_start(tokenizer: PreTrainedTokenizerBase, text: str, template: ChatTemplate | None) -> list[int]:
    """Ids of a text that opens a sequence: with the beginning token, where the tokenizer adds one and no template
    has written it."""
    ids = encode(tokenizer, text)
    opening = tokenizer("a").input_ids[:1] if template is None else []
    return [*opening, *ids] if opening == [tokenizer.bos_token_id] else ids


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of `ids` without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """ids and mask, [B, T] each, padded on the left."""
    width = max(1, *map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def alike(lengths: Sequence[int], spare: int) -> list[list[int]]:
    """The places of rows with these `lengths`, in the groups of like length that cost least to pass one by one: a group
    costs its rows times its longest, and `spare` tokens for being a pass of its own."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    best: list[tuple[int, int]] = [(0, 0)]  # of the first n rows: the least cost, and where their last group begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[begin][0] + spare + (end - begin) * longest, begin) for begin in range(end)))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[best[end][1] : end])
        end = best[end][1]
    return groups[::-1]


def endings(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer."""
    named = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "</s>")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in named}  # unknown names: None, or "unknown"
    found = {id for name, id in ids.items() if isinstance(id, int) and tokenizer.convert_ids_to_tokens(id) == name}
    end = tokenizer.eos_token_id
    return sorted(found | ({end} if isinstance(end, int) else set()))
