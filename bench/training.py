"""What training costs beyond the passes of the frozen models that nothing can spare it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.measure import Ratio, in_turn
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config
from helmas_core.handoff.examples import Example
from helmas_core.handoff.prepare import prepare
from helmas_core.models import inject
from helmas_core.models.cache import capture
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent
from helmas_core.runs import create_run
from helmas_core.training.following import choose
from helmas_core.training.loop import Trainer
from helmas_core.training.losses import cross_entropy
from helmas_core.training.objective import Objective
from helmas_core.training.order import step_random
from helmas_core.training.session import train_bridge
from helmas_core.validation import validate

WIDE = BridgeSection.model_validate({"projector_input": "neighbourhood"})
UNFITTED = BridgeSection.model_validate({"projector_input": "neighbourhood", "start": "random"})


def settings(pair: Pair, bridge: BridgeSection = WIDE, dataset: str = "relay", **train: Any) -> Config:
    """The built-in stories unless another data set is named; the prompt alone is handed over."""
    stage = {"name": "functional", "steps": 1, "losses": {"ce": 1.0}}
    defaults = {
        "stages": [stage],
        "batch": 8,
        "state_gib": 0.0,
        "eval_samples": 0,
        "continuation": 0.3,
        "amp": amp(pair),
    }
    data = {
        "dataset": dataset,
        "handoff": "prompt",
        "limit": train.pop("limit", 64),
        "chat_template": pair.template is not None,
    }
    return validate(Config, {"bridge": bridge.model_dump(), "data": data, "train": {**defaults, **train}})


def amp(pair: Pair) -> str:
    return "bf16" if pair.student.model.dtype == torch.bfloat16 else "off"


def step_over_passes(pair: Pair, repeats: int) -> Iterator[Ratio]:
    config = settings(pair)
    examples = prepare(config, pair, "train", 8, 0, Silent())
    objective = Objective(pair, build_bridge(WIDE, pair), config.train)
    objective.bridge.fit([objective.states(examples)])
    trainer = Trainer(objective, examples, config.train)

    def step() -> None:
        trainer.run(0, Silent(), lambda *_: None, lambda _: None, lambda _: None)

    times = in_turn(step, lambda: frozen_passes(objective, config, examples), pair.device, repeats)
    yield Ratio("training step, wide bridge", "step of 8", "frozen passes alone", *times, 1.15, ceiling=True)


def frozen_passes(objective: Objective, config: Config, examples: list[Example]) -> None:
    """The teacher reads; the student goes on from a cache of its own size, forwards and back to that cache."""
    pair = objective.pair
    objective.teacher_states.read(objective.told(examples))
    own = blank(pair, *pad_left([e.source for e in examples], pair.pad, pair.device))
    following = choose(examples, config.train, step_random(config.train.seed, 0, 0), pair.pad, pair.device)
    for rows in following.by_length():
        part = following.rows(rows)
        logits = inject.forward(pair.student.model, own.rows(rows), part.ids, part.mask, part.columns)
        cross_entropy(logits, part.labels[:, part.columns]).backward()


def blank(pair: Pair, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    """A cache of noise that gradients reach: to fill it costs the student nothing."""
    first = capture(pair.student.model, ids[:, :1], mask[:, :1])
    wide = first.map(
        lambda t: torch.randn(len(ids), t.shape[1], ids.shape[1], t.shape[3], dtype=t.dtype, device=t.device)
    )
    return type(wide)(
        tuple(k.requires_grad_() for k in wide.keys),
        tuple(v.requires_grad_() for v in wide.values),
        mask.bool(),
        torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
    )


def epoch_with_filled_store(pair: Pair, repeats: int, items: int = 64) -> Iterator[Ratio]:
    """The same steps with what they read on disk, over those that put it there; without a closed-form start."""
    with tempfile.TemporaryDirectory() as scratch:
        turns = iter(range(10**6))
        last = [Path(scratch)]
        stage = {"name": "warm", "steps": items // 8, "losses": {"cache_mse": 1.0}}

        def epoch(store: Path) -> None:
            config = settings(pair, UNFITTED, stages=[stage], store=store, calibration_items=items)
            run = create_run(Path(scratch) / f"run{next(turns)}", config)
            train_bridge(config, pair, run, Silent())

        def first() -> None:
            last[0] = Path(scratch) / f"store{next(turns)}"
            epoch(last[0])

        below, above = in_turn(first, lambda: epoch(last[0]), pair.device, repeats, warm=0)
        yield Ratio("epoch, store filled", "second epoch", "first epoch", above, below, 0.4, ceiling=True)
