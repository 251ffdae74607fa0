"""What a GPU adds: how much of its arithmetic a training step uses, and what a bridged cache costs while decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from bench.handoff import KINDS, tokens_of
from bench.measure import Ratio, in_turn, peak
from bench.training import WIDE, settings
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection
from helmas_core.handoff.examples import Example
from helmas_core.handoff.prepare import prepare
from helmas_core.models.cache import capture
from helmas_core.models.inject import generate
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.training.following import choose
from helmas_core.training.loop import Trainer, memory_gib
from helmas_core.training.losses import IGNORE
from helmas_core.training.objective import Objective
from helmas_core.training.order import step_random

DENSE_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # FLOP/s, datasheets
BATCHES = (32, 64, 128, 256)


def utilisation(pair: Pair, repeats: int, dataset: str, compiled: bool = False) -> Iterator[Ratio]:
    """Model FLOPs utilisation (Chowdhery et al., 2022) of a training step, batch by batch: the arithmetic that real
    tokens need at the GPU's best, over the step. Attention's own products are not counted."""
    best = top_speed(pair.device)
    for batch in BATCHES:
        config = settings(pair, dataset=dataset, batch=batch, compile=compiled, limit=batch)
        examples = prepare(config, pair, "train", batch, 0, Silent())
        if len(examples) < batch:
            return
        forget_peak(pair.device)
        bridge = build_bridge(WIDE, pair)
        objective = Objective(pair, bridge, config.train)
        bridge.fit([objective.states(examples[:32])])
        trainer = Trainer(objective, examples, config.train)
        step = lambda trainer=trainer: trainer.run(0, Silent(), lambda *_: None, lambda _: None, lambda _: None)  # noqa: E731
        times, _ = in_turn(step, lambda: None, pair.device, repeats, warm=3)
        need = [flops(pair, bridge, examples, config.train.seed) / best] * len(times)
        read = sum(len(example.source) for example in examples)
        note = f"{read / sorted(times)[len(times) // 2]:,.0f} tokens/s, {memory_gib(pair.device):.1f} GiB"
        name = f"MFU of a training step, wide bridge, batch {batch}" + (", compiled" if compiled else "")
        yield Ratio(name, f"its arithmetic at {best / 1e12:.0f} TFLOP/s", "step", need, times, 0.45, note=note)


def flops(pair: Pair, bridge: Bridge, examples: Sequence[Example], seed: int) -> float:
    """Of one step: the teacher reads, the bridge goes forwards and back, and the frozen student forwards and back to
    the cache, with its head where something is scored."""
    config = settings(pair).train
    following = choose(list(examples), config, step_random(seed, 0, 0), pair.pad, pair.device)
    read, said = sum(len(example.source) for example in examples), int(following.mask.sum())
    scored = int((following.labels != IGNORE).sum())
    head = head_of(pair.student.model).numel()
    teacher, student = (body(member.model) for member in (pair.teacher, pair.student))
    return 2 * teacher * read + 4 * bridge.parameter_count() * read + 4 * student * said + 4 * head * scored


def body(model: PreTrainedModel) -> int:
    """The weights of all matrix products in a model's layers."""
    weights = (p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    head = head_of(model)
    return sum(p.numel() for p in weights if p is not head)


def head_of(model: PreTrainedModel) -> torch.Tensor:
    head = model.get_output_embeddings()
    assert head is not None
    return head.weight


def top_speed(device: torch.device) -> float:
    """FLOP/s in dense bf16: the datasheet's for a card that is known, else what a large product reaches."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [speed for card, speed in DENSE_BF16.items() if card in name]
    return known[0] if known else peak(device, torch.bfloat16)[0]


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def decoding(pair: Pair, repeats: int, written: int = 64) -> Iterator[Ratio]:
    """Tokens a second of the student after a bridged cache, over those after its own."""
    bridge = build_bridge(BridgeSection.model_validate(KINDS["wide"][0]), pair).eval()
    model = pair.student.model
    for batch in (1, 32):
        ids, mask = tokens_of(pair, batch, 256)
        cue, cue_mask = tokens_of(pair, batch, 4, seed=1)
        own = capture(model, ids, mask)
        with torch.no_grad():
            bridged = bridge(capture(pair.teacher.model, ids, mask))

        def write(cache: object, cue: torch.Tensor = cue, mask: torch.Tensor = cue_mask) -> None:
            generate(model, cache, cue, mask, written)  # type: ignore[arg-type]

        plain, ours = in_turn(
            lambda cache=own, write=write: write(cache),
            lambda cache=bridged, write=write: write(cache),
            pair.device,
            repeats,
        )
        note = f"{batch * written / sorted(plain)[len(plain) // 2]:,.0f} tokens/s"
        yield Ratio(
            f"decoding, {batch} × {written} tokens", "plain student", "bridged student", plain, ours, 0.97, note=note
        )
