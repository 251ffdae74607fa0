"""The training loop: stages of steps on accelerate, with logs, validation, checkpoints and a clean stop."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import release_memory

from helmas_core import processes
from helmas_core.bridges.base import Bridge
from helmas_core.config import StageConfig, TrainConfig
from helmas_core.errors import ConfigError, TrainingError
from helmas_core.handoff.examples import Example
from helmas_core.models.hardware import GIB, out_of_memory
from helmas_core.models.heap import give_back
from helmas_core.progress import Progress
from helmas_core.training.mix import Mix
from helmas_core.training.objective import Objective
from helmas_core.training.order import batch_indices, learning_rate, noise_seed, step_random
from helmas_core.training.parts import half, parts, told
from helmas_core.training.skips import Skips, named


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
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`mix` draws from `examples` by weight; without it they come evenly, in seeded permutations.

        `tracking` is the folder for trackers that write files. `note` gets what went wrong and was made good.
        """
        self.objective, self.examples, self.config, self.mix = objective, examples, config, mix
        self.note, self.skips, self.meter = note, Skips(config.max_skipped, note), Meter()
        self.micro_batch = config.micro_batch
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
        fused = device.type in ("cpu", "cuda")  # one pass over the weights in place of a dozen
        optimiser = torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay, fused=fused)
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
        """Do the steps from `first` on; returns how many steps are done. A requested stop ends after a step.

        A step's checkpoint comes before its validation, which a run that goes on from there does first.
        """
        steps = plan(self.config.schedule())
        if first and self._validates(first, len(steps)):
            self._validate(steps[first - 1], on_eval)
        for step in steps[first:]:
            terms, tokens = self._step(step)
            self.meter.add(terms, tokens)
            done = step.overall + 1
            last = done == len(steps)
            speed = self.meter.read()["tokens_per_second"]
            if done % self.config.log_every == 0 or last:
                on_log(step, self.meter.read())
                self.meter = Meter()
            figures = {**terms, "tokens_per_second": speed, "memory_gib": memory_gib(self.objective.pair.device)}
            progress.update(done, stage=step.stage.name, **figures)
            stop = processes.agree(progress.stop_requested())
            if saved := done % self.config.checkpoint_every == 0 or last or stop:
                on_checkpoint(step)
            if self._validates(done, len(steps)) and not stop:
                self._validate(step, on_eval)
                if (stop := processes.agree(progress.stop_requested())) and not saved:
                    on_checkpoint(step)
            if stop:
                return done
        return len(steps)

    def _validates(self, done: int, total: int) -> bool:
        return done % self.config.eval_every == 0 and done < total

    def _validate(self, step: Step, on_eval: Callable[[Step], object]) -> None:
        on_eval(step)
        self.meter = Meter()

    @torch.no_grad()
    def held_out(self, examples: Sequence[Example], step: int) -> dict[str, float]:
        """The losses of step number `step` over examples that are not learnt from, each a mean over them; continuations
        begin at the same places every time. Empty where there are no steps, or no memory for one batch of them."""
        stages = [one.stage for one in plan(self.config.schedule())][step - 1 : step]
        self.objective.bridge.eval()
        try:
            return self._means(examples, stages[0]) if stages else {}
        except Exception as error:
            if processes.count() > 1 or not out_of_memory(error):
                raise
            self.note("validation: out of memory for its losses, which are left out")
            return {}
        finally:
            self.objective.bridge.train()

    def _means(self, examples: Sequence[Example], stage: StageConfig) -> dict[str, float]:
        found, rng = dict[str, float](), random.Random("held out")
        for batch in parts(examples, self.micro_batch or stage.batch or self.config.batch):
            with self.accelerator.autocast():
                loss, terms = self.objective(batch, stage.losses, rng)
            for name, value in processes.sums({"loss": loss.item(), **terms}).items():
                found[name] = found.get(name, 0.0) + value * len(batch) / len(examples)
        return found

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
        if step.within == 0:  # another loss has other gradients: by the old ones' moments it would leap
            self.optimiser.state.clear()
        self.objective.bridge.anneal(step.overall / config.total_steps())
        terms, tokens, odd = self._backward(step)
        processes.add_up([p.grad for p in self.bridge.parameters() if p.grad is not None])
        norm = float(self.accelerator.clip_grad_norm_(self.bridge.parameters(), config.clip) or 0.0)
        skipped = self._skip(step, norm, odd)
        if not skipped or self.accelerator.scaler is not None:  # a scaler leaves such a step out by itself
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return ({}, tokens) if skipped else ({**terms, "learning_rate": rate}, tokens)

    def _skip(self, step: Step, norm: float, odd: Sequence[Example]) -> bool:
        """Whether this step must not be taken: `odd` examples had a loss that is not finite, or the gradient is not.
        With a scaler such gradients are how it finds its scale."""
        if not odd and (math.isfinite(norm) or self.accelerator.scaler is not None):
            self.skips.in_a_row = 0
            return False
        examples = odd or [example for part in self._batches(step) for example in part]
        self.skips.add(step.overall + 1, "loss" if odd else "gradient", examples)
        return True

    def _backward(self, step: Step) -> tuple[dict[str, float], int, list[Example]]:
        """`_accumulate`, in parts of half the size wherever the memory runs out, from the step's beginning.

        Of several processes one alone cannot: the others are in the middle of their parts.
        """
        while True:
            torch.manual_seed(noise_seed(self.config.seed, step.overall))
            try:
                return self._accumulate(step)
            except Exception as error:
                if not out_of_memory(error) or processes.count() > 1:
                    raise
                self._halve(step, error)
            self.optimiser.zero_grad(set_to_none=True)
            release_memory()
            give_back()

    def _halve(self, step: Step, error: Exception) -> None:
        batch = step.stage.batch or self.config.batch
        size = min(self.micro_batch or batch, batch)
        if size == 1:
            longest = max((e for part in self._batches(step) for e in part), key=lambda example: len(example.source))
            what = f"out of memory with one item at a time, of which {named([longest])} is the longest"
            raise TrainingError(what, fix="lower data.max_source_tokens, or use a larger machine") from error
        self.note(told(step.overall + 1, size, batch * self.config.accumulate, step.stage.losses))
        self.micro_batch = half(size)

    def _accumulate(self, step: Step) -> tuple[dict[str, float], int, list[Example]]:
        """Gradients of all parts of the batch; the mean of their terms, the source tokens that they read, and the
        examples of parts with a loss that is not finite."""
        sums: dict[str, float] = {}
        tokens, odd = 0, list[Example]()
        whole = (step.stage.batch or self.config.batch) * self.config.accumulate
        rng = step_random(self.config.seed, step.stage_index, step.overall)
        for batch in self._batches(step):
            share = whole / len(batch)
            with self.accelerator.autocast():
                loss, terms = self.objective(batch, step.stage.losses, rng)
            figures = processes.sums({"loss": loss.item(), **terms})
            if not loss.requires_grad:
                what = f"nothing that is trained takes part in the losses of the stage {step.stage.name}"
                raise TrainingError(what, fix="choose other losses")
            self.accelerator.backward(loss / share)
            tokens += sum(len(example.source) for example in batch)
            odd += [] if math.isfinite(figures["loss"]) else batch
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / share
        return sums, tokens, odd

    def _batches(self, step: Step) -> Iterator[Sequence[Example]]:
        """What goes through the models at once, of all processes together."""
        size = step.stage.batch or self.config.batch
        most = None if self.micro_batch is None else self.micro_batch * processes.count()
        for micro in range(self.config.accumulate):
            index = step.within * self.config.accumulate + micro
            yield from parts([self.examples[i] for i in self._indices(step.stage_index, index, size)], most)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside weights, optimiser and step: JSON values."""
        scaler = self.accelerator.scaler
        return {
            "scaler": {} if scaler is None else scaler.state_dict(),
            "terms": self.meter.terms,
            "micro_batch": self.micro_batch,
            "skipped": [self.skips.total, self.skips.in_a_row],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.meter, self.micro_batch = Meter(terms=state["terms"]), state["micro_batch"]
        self.skips.total, self.skips.in_a_row = state["skipped"]


def parameter_groups(bridge: Bridge, config: TrainConfig) -> list[dict[str, Any]]:
    """The bridge's own parameters and, where it is trained along, the student's with its share of the rate."""
    student = bridge.student_parameters()
    theirs = {id(p) for p in student}
    share = (config.student_learning_rate or config.learning_rate) / config.learning_rate
    groups = [{"params": [p for p in bridge.parameters() if id(p) not in theirs], "share": 1.0}]
    return groups + ([{"params": student, "share": share}] if student else [])


def compile_bridge(bridge: Bridge) -> None:
    """Fuse the stages' kernels in place; names and state stay as they are."""
    for child in (child for part in bridge.by_teacher for child in part.children()):
        for module in child if isinstance(child, torch.nn.ModuleList) else [child]:
            module.compile(dynamic=True)


def memory_gib(device: torch.device) -> float:
    """Peak GPU memory, or this process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
