"""A validation while training: every arm on items that training never sees, within the memory that is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate.utils import release_memory

from helmas_core import processes
from helmas_core.bridges.base import Bridge
from helmas_core.config import Config
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.handoff.examples import Example
from helmas_core.models.hardware import out_of_memory
from helmas_core.models.heap import give_back
from helmas_core.models.pair import Pair
from helmas_core.progress import Progress
from helmas_core.training.parts import half

VALIDATION_ARMS = ("student", "text", "bridge", "deranged")


def evaluate_held_out(
    config: Config, pair: Pair, bridge: Bridge, examples: Sequence[Example], progress: Progress
) -> dict[str, Any]:
    """The `eval` document of `examples`, in smaller batches where the memory runs out; Stopped if a person asks."""
    bridge.eval()
    try:
        while True:
            try:
                return evaluate_examples(config, pair, bridge, examples, VALIDATION_ARMS, "validation", progress)
            except Exception as error:
                if config.eval.batch == 1 or processes.count() > 1 or not out_of_memory(error):
                    raise
            config = _in_half(config, progress)
    finally:
        bridge.train()


def _in_half(config: Config, progress: Progress) -> Config:
    batch = half(config.eval.batch)
    progress.finish()
    progress.note(f"validation: out of memory with eval.batch = {config.eval.batch}; going on with {batch}")
    release_memory()
    give_back()
    return config.model_copy(update={"eval": config.eval.model_copy(update={"batch": batch})})
