"""Train the embedded lab pair from nothing: `python -m helmas_core.lab.make --out DIR`.

Deterministic for a given torch build and one thread: the tokenizer, then the teacher (8 layers) and the
student (3 layers), both on the train splits of `relay` and `arithmetic`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from helmas_core.lab.corpus import STEP_END, Piece, arithmetic_document, copy_document, relay_document, texts
from helmas_core.lab.prime import prime

END = "<|end|>"
LONGEST = 5  # steps of a chain in training, one more than the task asks for
VOCABULARY = 1024
_SPLIT = r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]|\s"
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with at most two digits to a token; every text round-trips."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts(4000, seed=0), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def teacher() -> Qwen3ForCausalLM:
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 8, "head_dim": 32}
    return Qwen3ForCausalLM(Qwen3Config(**shape, **_heads(4, 2), **_rope("teacher"), initializer_range=0.09, **_COMMON))


def student() -> LlamaForCausalLM:
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "head_dim": 24}
    return LlamaForCausalLM(LlamaConfig(**shape, **_heads(6, 3), **_rope("student"), initializer_range=0.1, **_COMMON))


def _heads(attention: int, kv: int) -> dict[str, int]:
    return {"num_attention_heads": attention, "num_key_value_heads": kv}


def _rope(name: str) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": RECIPES[name].theta}}


def batch(documents: list[list[Piece]], encode: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """ids [B, T] and loss weights [B, T] of text: 1 on answers, .05 on other text, 0 on padding."""
    rows, answers = [], []
    for document in documents:
        ids = encode([text for text, _ in document]).input_ids
        rows.append([i for piece in ids for i in piece])
        answers.append([answer for piece, (_, answer) in zip(ids, document, strict=True) for _ in piece])
    return pad(rows, answers, 0.05)


def pad(rows: Sequence[Sequence[int]], answers: Sequence[Sequence[bool]], other: float = 0.0) -> tuple[Tensor, Tensor]:
    """The same from token ids; `other` is the weight of what is no answer."""
    width = max(map(len, rows))
    weights = [[1.0 if answer else other for answer in row] for row in answers]
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, torch.tensor([[*row, *[0.0] * (width - len(row))] for row in weights])


def step_loss(model: PreTrainedModel, ids: Tensor, weights: Tensor) -> tuple[Tensor, float, Tensor]:
    """Weighted next-token loss, accuracy on the answers, and the states two layers below the top [B, T, hidden]."""
    out = model(input_ids=ids, output_hidden_states=True)
    logits, target, weight = out.logits[:, :-1].float(), ids[:, 1:], weights[:, 1:]
    each = cross_entropy(logits.transpose(1, 2), target, reduction="none")
    answers = weight == 1.0
    accuracy = (logits.argmax(-1) == target)[answers].float().mean().item()
    return (each * weight).sum() / weight.sum(), accuracy, out.hidden_states[-3]


def value_loss(head: torch.nn.Linear, states: Tensor, at: Tensor, values: list[int]) -> tuple[Tensor, float]:
    """Deep supervision: every finished step should hold its value while two layers are still to come."""
    logits, target = head(states[at].float()), torch.tensor(values)
    return cross_entropy(logits, target), (logits.argmax(-1) == target).float().mean().item()


def rate(step: int, steps: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / 200)
    return peak * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@dataclass(frozen=True)
class Recipe:
    """How one of the models is trained; a step reads `chains`, `stories` and `copies` documents."""

    steps: int
    peak: float
    theta: float
    quiet: float
    matching: int
    scale: float
    bf16: bool
    chains: int = 40
    stories: int = 16
    copies: int = 8

    def longest(self, step: int) -> int:
        """Chains get one step longer with every tenth of the training."""
        return min(LONGEST, 2 + 10 * step // self.steps)


RECIPES = {
    "teacher": Recipe(
        1300, 2e-3, theta=1e6, quiet=0.03, matching=1, scale=0.2, bf16=True, chains=48, stories=6, copies=4
    ),
    "student": Recipe(1400, 2e-3, theta=1e5, quiet=0.03, matching=2, scale=1.0, bf16=False),
}


def train(model: PreTrainedModel, encode: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> None:
    """Both models read the same text. Only one with more layers than a chain has steps gets deep supervision: a
    shallower one has no room for it."""
    deep = model.config.num_hidden_layers >= LONGEST + 2
    head = torch.nn.Linear(model.config.hidden_size, 10)
    step_end = encode(STEP_END).input_ids[0]
    optimiser = torch.optim.AdamW(
        [*(p for p in model.parameters() if p.requires_grad), *head.parameters()], betas=(0.9, 0.98), weight_decay=0.01
    )
    rng, begin = random.Random(seed), time.perf_counter()
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, recipe.steps, recipe.peak)
        chains = [arithmetic_document(rng, rng.randint(2, recipe.longest(step))) for _ in range(recipe.chains)]
        stories = [relay_document(rng) for _ in range(recipe.stories)]
        copies = [copy_document(rng, len(encode)) for _ in range(recipe.copies)]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            ids, weights = batch([pieces for pieces, _ in chains], encode)
            a, a_right, states = step_loss(model, ids, weights)
            r, r_right, _ = step_loss(model, *batch(stories, encode))
            c, c_right, _ = step_loss(model, *pad([ids for ids, _ in copies], [asked for _, asked in copies]))
        v, v_right = value_loss(head, states, ids.eq(step_end), [v for _, values in chains for v in values])
        optimiser.zero_grad(set_to_none=True)
        (a + r + c + (v if deep else 0 * v)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0 or step == recipe.steps - 1:
            right = {"arithmetic": a_right, "relay": r_right, "copy": c_right, "value": v_right}
            shown = {name: round(share, 3) for name, share in right.items()}
            print(json.dumps({"step": step, **shown, "seconds": round(time.perf_counter() - begin)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=list(RECIPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    encode = tokenizer()
    for seed, (name, build) in enumerate({"teacher": teacher, "student": student}.items()):
        if options.only in (None, name):
            torch.manual_seed(seed)
            model = build().train()
            recipe = RECIPES[name]
            family = None if name == "teacher" else Qwen3ForCausalLM.from_pretrained(options.out / "teacher")
            prime(model, recipe.theta, recipe.quiet, recipe.matching, recipe.scale, family)
            model.get_input_embeddings().requires_grad_(family is None)
            print(json.dumps({"model": name, "parameters": model.num_parameters()}), flush=True)
            train(model, encode, RECIPES[name], seed)
            model.to(torch.float16).save_pretrained(options.out / name)
            encode.save_pretrained(options.out / name)


if __name__ == "__main__":
    main()
