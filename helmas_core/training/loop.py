"""The training loop: stages of steps on accelerate, with logs, validation, checkpoints and a clean stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from helmas_core import processes
from helmas_core.bridges.base import Bridge
from helmas_core.config import StageConfig, TrainConfig
from helmas_core.errors import ConfigError, TrainingError
from helmas_core.handoff.examples import Example
from helmas_core.models.hardware import GIB
from helmas_core.progress import Progress
from helmas_core.training.mix import Mix
from helmas_core.training.objective import Objective
from helmas_core.training.order import batch_indices, learning_rate, noise_seed, step_random


@dataclass(frozen=True)
class Step:
    """One optimiser step: its place in the whole run and in its stage."""

    overall: int
    stage_index: int
    within: int
    stage: StageConfig


def plan(stages: Sequence[StageConfig]) -> list[Step]:
    """Every step of the run, in order."""
    steps: list[Step] = []
    for index, stage in enumerate(stages):
        steps += [Step(len(steps) + k, index, k, stage) for k in range(stage.steps)]
    return steps


@dataclass
class Meter:
    """Running figures between two log lines."""

    begin: float = field(default_factory=time.perf_counter)
    tokens: int = 0
    terms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, terms: Mapping[str, float], tokens: int) -> None:
        self.tokens += tokens
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)

    def read(self) -> dict[str, float]:
        means = {name: sum(values) / len(values) for name, values in self.terms.items()}
        return {**means, "tokens_per_second": self.tokens / max(1e-9, time.perf_counter() - self.begin)}


class Trainer:
    """Moves a bridge through its stages. What happens at logs, validations and checkpoints is the caller's.

    Several processes each compute their share of every batch and add up their gradients after the backward pass, so
    that all take the same step. DDP would hook a forward pass of the bridge, and not all methods act in one.
    """

    def __init__(
        self,
        objective: Objective,
        examples: Sequence[Example],
        config: TrainConfig,
        mix: Mix | None = None,
        tracking: Path | None = None,
    ) -> None:
        """`mix` draws from `examples` by weight; without it they come evenly, in seeded permutations.

        `tracking` is the folder for trackers that write files.
        """
        self.objective, self.examples, self.config, self.mix = objective, examples, config, mix
        device = objective.pair.device
        if config.amp == "fp16" and device.type == "cpu":
            raise ConfigError("fp16 autocast needs a GPU", where="train.amp", fix='set it to "bf16" or "off"')
        precision = "no" if config.amp == "off" else config.amp
        # accelerate would refuse another precision or device than that of the process's first Trainer
        AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
        self.accelerator = Accelerator(
            mixed_precision=precision, cpu=device.type == "cpu", log_with=config.tracker, project_dir=tracking
        )
        bridge = objective.bridge.requires_grad_(True).train()
        groups = parameter_groups(bridge, config)
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.bridge = self.accelerator.prepare_model(bridge, evaluation_mode=True)  # autocast, but no DDP
        self.optimiser = self.accelerator.prepare(optimiser)
        if config.compile:
            compile_bridge(bridge)

    def run(
        self,
        first: int,
        progress: Progress,
        on_log: Callable[[Step, dict[str, float]], None],
        on_eval: Callable[[Step], object],
        on_checkpoint: Callable[[Step], None],
    ) -> int:
        """Do the steps from `first` on; returns how many steps are done. A requested stop ends after a step."""
        steps, meter = plan(self.config.schedule()), Meter()
        for step in steps[first:]:
            terms, tokens = self._step(step)
            meter.add(terms, tokens)
            done = step.overall + 1
            last = done == len(steps)
            speed = meter.read()["tokens_per_second"]
            if done % self.config.log_every == 0 or last:
                on_log(step, meter.read())
                meter = Meter()
            figures = {**terms, "tokens_per_second": speed, "memory_gib": memory_gib(self.objective.pair.device)}
            progress.update(done, stage=step.stage.name, **figures)
            stop = processes.agree(progress.stop_requested())
            if done % self.config.checkpoint_every == 0 or last or stop:
                on_checkpoint(step)
            if stop:
                return done
            if done % self.config.eval_every == 0 and not last:
                on_eval(step)
                meter = Meter()
        return len(steps)

    def used(self, wanted: Callable[[StageConfig], bool] = lambda _: True, own: bool = False) -> list[int]:
        """The indices of all examples that the run will see, or that its `wanted` stages will.

        With `own`, of those that this process will see.
        """
        part = processes.mine if own else list
        steps = [step for step in plan(self.config.schedule()) if wanted(step.stage)]
        sizes = [(s, s.stage.batch or self.config.batch) for s in steps]
        count = self.config.accumulate
        micro = [(s.stage_index, s.within * count + m, size) for s, size in sizes for m in range(count)]
        return sorted({i for stage, step, size in micro for i in part(self._indices(stage, step, size))})

    def _indices(self, stage: int, step: int, size: int) -> list[int]:
        """The examples of micro-batch `step` of a stage."""
        if self.mix is not None:
            return self.mix.batch(step, size)
        return batch_indices(self.config.seed, stage, step, size, len(self.examples))

    def _step(self, step: Step) -> tuple[dict[str, float], int]:
        stage, config = step.stage, self.config
        rate = learning_rate(step.within, stage.steps, stage.learning_rate or config.learning_rate, config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        torch.manual_seed(noise_seed(config.seed, step.overall))
        self.objective.bridge.anneal(step.overall / config.total_steps())
        terms, tokens = self._backward(step)
        processes.add_up([p.grad for p in self.bridge.parameters() if p.grad is not None])
        self.accelerator.clip_grad_norm_(self.bridge.parameters(), config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return {**terms, "learning_rate": rate}, tokens

    def _backward(self, step: Step) -> tuple[dict[str, float], int]:
        """Gradients of `accumulate` micro-batches; the mean of their terms and the source tokens that they read."""
        sums: dict[str, float] = {}
        tokens, count = 0, self.config.accumulate
        rng = step_random(self.config.seed, step.stage_index, step.overall)
        for batch in self._batches(step):
            with self.accelerator.autocast():
                loss, terms = self.objective(batch, step.stage.losses, rng)
            figures = processes.sums({"loss": loss.item(), **terms})
            if not math.isfinite(figures["loss"]):
                raise TrainingError(
                    f"the loss is {figures['loss']} at step {step.overall + 1}", fix="lower the learning rate"
                )
            if not loss.requires_grad:
                what = f"nothing that is trained takes part in the losses of the stage {step.stage.name}"
                raise TrainingError(what, fix="choose other losses")
            self.accelerator.backward(loss / count)
            tokens += sum(len(example.source) for example in batch)
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / count
        return sums, tokens

    def _batches(self, step: Step) -> Iterator[list[Example]]:
        size = step.stage.batch or self.config.batch
        for micro in range(self.config.accumulate):
            index = step.within * self.config.accumulate + micro
            yield [self.examples[i] for i in self._indices(step.stage_index, index, size)]

    def scaler_state(self) -> dict[str, Any]:
        """The fp16 loss scaler's state; empty without one."""
        return {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()

    def restore_scaler(self, state: dict[str, Any]) -> None:
        if state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state)


def parameter_groups(bridge: Bridge, config: TrainConfig) -> list[dict[str, Any]]:
    """The bridge's own parameters and, where it is trained along, the student's with its share of the rate."""
    student = bridge.student_parameters()
    theirs = {id(p) for p in student}
    share = (config.student_learning_rate or config.learning_rate) / config.learning_rate
    groups = [{"params": [p for p in bridge.parameters() if id(p) not in theirs], "share": 1.0}]
    return groups + ([{"params": student, "share": share}] if student else [])


def compile_bridge(bridge: Bridge) -> None:
    """Fuse the stages' kernels in place; names and state stay as they are."""
    for child in bridge.children():
        for module in child if isinstance(child, torch.nn.ModuleList) else [child]:
            module.compile(dynamic=True)


def memory_gib(device: torch.device) -> float:
    """Peak GPU memory, or this process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
