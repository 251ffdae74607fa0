"""A whole training session: data, bridge, closed-form start, stages, artefact, last validation."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from helmas_core import processes
from helmas_core.bridges.artefact import describe, read_metadata, save_bridge, start_from
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge, check_method
from helmas_core.config import Config, TrainConfig
from helmas_core.data.overlap import item_hash, join_hashes
from helmas_core.data.tasks import scored_task
from helmas_core.errors import DataError
from helmas_core.handoff.examples import Example, within
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.shelf import open_store
from helmas_core.models.heap import give_back
from helmas_core.models.pair import Pair
from helmas_core.models.record import check_recordable
from helmas_core.progress import Progress, Stopped
from helmas_core.runs import Run
from helmas_core.training import checkpoint
from helmas_core.training.loop import Step, Trainer
from helmas_core.training.mix import Mix
from helmas_core.training.objective import Objective
from helmas_core.training.order import batch_indices
from helmas_core.training.refusals import refuse_overlap, refuse_test_split
from helmas_core.training.shuffled import deranged_sources
from helmas_core.training.start import Pairs, rms_ratio
from helmas_core.training.tracking import FOLDER, check_tracker, track, tracking
from helmas_core.training.validation import evaluate_held_out


class Session:
    """One run of `helmas train`; `go` returns the document that `train --json` prints.

    Of several processes the first one writes and fits, and all go through the same steps.
    """

    def __init__(self, config: Config, pair: Pair, run: Run, progress: Progress) -> None:
        self.config, self.pair, self.run, self.progress = config, pair, run, progress
        self.begin = time.perf_counter()
        self.losses: dict[str, float] = {}
        self.best: dict[str, Any] | None = None  # the step and scores of the validation with the best bridge
        self.learnt = ""  # hashes of what the bridge learnt before this run

    def go(self, resume: bool) -> dict[str, Any]:
        refuse_test_split(self.config)
        check_tracker(self.config.train.tracker)
        check_method(self.config.bridge, self.config.train, self.config.data.handoff)
        torch.manual_seed(self.config.train.seed)
        find = resume and processes.first()
        begun = processes.broadcast(checkpoint.newest(self.run.checkpoints, self.progress.note) if find else None)
        bridge = self._bridge(begun)
        train = self._schedule(bridge)
        examples = self._examples("train")
        validation = self._examples("validation") if self.config.train.eval_samples else []
        if not self.config.train.allow_overlap:
            refuse_overlap(examples, validation)
        store = open_store(self.config.train, self.progress)
        objective = Objective(self.pair, bridge, self.config.train, store)
        if self.config.train.shuffled:
            objective.donors = deranged_sources(examples)
            objective.donors |= deranged_sources(validation) if validation else {}
        mix = self._mix(examples)
        trainer = Trainer(objective, examples, train, mix, self.run.path / FOLDER, self.progress.note)
        self.trainer, self.examples = trainer, examples
        calibration = self._calibration(examples, mix)
        self._read(objective, calibration, trainer)
        done = self._resume(trainer, begun) if begun else self._start(objective, calibration)
        total = train.total_steps()
        self.progress.start("train", total, done)
        with tracking(trainer.accelerator, self.config, self.run):
            done = trainer.run(
                done,
                self.progress,
                self._log,
                lambda step: self._validate(bridge, validation, step.overall + 1),
                lambda step: self._checkpoint(trainer, step),
            )
            self.progress.finish()
            if processes.first():
                save_bridge(self.run.bridge, bridge, self._document(done))
            scores = self._validate_last(bridge, validation, done) if done == total else None
        return self._result(bridge, done, scores)

    def _bridge(self, begun: Path | None) -> Bridge:
        """A new bridge, with another one's weights where one is named; a run that is `begun` has its own there."""
        bridge, init = build_bridge(self.config.bridge, self.pair), self.config.train.init
        if init is not None and begun is None:
            start_from(init.expanduser(), bridge, self.pair)
            self.learnt = hashes_of(init.expanduser())
        return bridge

    def _schedule(self, bridge: Bridge) -> TrainConfig:
        """How to train; without stages for a bridge that is fitted in closed form."""
        if next(bridge.parameters(), None) is not None:
            if any("attention" in stage.losses for stage in self.config.train.stages):
                check_recordable(self.pair.student.model)
            return self.config.train
        self.progress.note(f"{self.config.bridge.method} is fitted in closed form: there is nothing to train")
        return self.config.train.model_copy(update={"stages": (), "steps": None})

    def _examples(self, split: str) -> list[Example]:
        """Training examples, from data.mix where it is given, or the validation ones of data.dataset."""
        data, train = self.config.data, self.config.train
        learnt = split == "train"
        wanted, names = (data.split, data.learnt()) if learnt else (split, data.names())
        limit = data.limit if learnt else max(2, train.eval_samples)
        for name in [] if learnt else names:
            scored_task(name)
        found = prepare(self.config, self.pair, wanted, limit, train.seed, self.progress, names)
        kept, dropped = within(found, data.max_source_tokens)
        if dropped:
            self.progress.note(
                f"{dropped} of {len(found)} {split} items are longer than data.max_source_tokens; left out"
            )
        return kept

    def _mix(self, examples: Sequence[Example]) -> Mix | None:
        """What draws from the sources by weight; None without data.mix."""
        shares = self.config.data.shares()
        if not shares:
            return None
        mix = Mix(examples, shares, self.config.train.seed)
        parts = (f"{name} {share:.1%} of {len(mix.places[name])} items" for name, share in shares.items())
        self.progress.note(f"mix: {', '.join(parts)}")
        return mix

    def _calibration(self, examples: Sequence[Example], mix: Mix | None) -> Sequence[Example]:
        """What statistics and the closed-form start are fitted on: what training sees first, each item once."""
        train, seed = self.config.train, self.config.train.seed
        count = train.calibration_items if train.init is None else train.batch  # only to measure by
        drawn = batch_indices(seed, 0, 0, count, len(examples)) if mix is None else mix.batch(0, count)
        return [examples[i] for i in dict.fromkeys(drawn)]

    def _read(self, objective: Objective, calibration: Sequence[Example], trainer: Trainer) -> None:
        """Let each model read the sources that training will ask it for, once, as far as memory and store go."""
        alone = self.config.train.store is None  # without a store, what another process reads is of no use to this one
        compared = trainer.used(lambda stage: objective.compares(stage.losses), own=alone)
        fitted = calibration if processes.first() or not alone else []
        used, own = ([*fitted, *(trainer.examples[i] for i in rows)] for rows in (trainer.used(own=alone), compared))
        told = set(objective.told(used))
        sources = {example.source for example in own}
        both: list[tuple[Any, Any]] = [(objective.teacher_states, told), (objective.student_states, sources)]
        if self.config.train.store is not None:
            counts = [f"{states.known(sources)} of {states.readings(sources)}" for states, sources in both]
            self.progress.note(f"store: {counts[0]} sources known as the teacher read them, {counts[1]} as the student")
        elif not self.config.train.state_gib:
            return
        self.progress.start("read", sum(states.readings(sources) for states, sources in both))
        done = 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            self.progress.update(done)
            if processes.count() == 1 and self.progress.stop_requested():  # others may be in the middle of a group
                raise Stopped

        for states, sources in both:
            states.fill(sources, self.config.train.batch, count)
        self.progress.finish()

    def _start(self, objective: Objective, examples: Sequence[Example]) -> int:
        """Statistics and the closed-form start, or another bridge's."""
        if processes.first():
            self.run.keep_metrics(lambda _: False)
            torch.manual_seed(self.config.train.seed)  # the start is measured with dropout, where there is any
            batch = self.config.train.batch
            chosen = sorted(examples, key=lambda e: len(e.source))
            figures = self._begin(objective, [chosen[i : i + batch] for i in range(0, len(chosen), batch)])
            figures["rms_ratio"] = rms_ratio(objective, chosen[:batch])
            self.progress.note(", ".join(f"{name} {value}" for name, value in figures.items()))
            self.run.log({"step": 0, "event": "start", **figures, "seconds": self._seconds()})
        give_back()
        processes.broadcast_tensors(objective.bridge.state_dict())
        return 0

    def _begin(self, objective: Objective, groups: Sequence[Sequence[Example]]) -> dict[str, Any]:
        """What can be fitted on `groups`, unless the bridge has another one's weights already."""
        if self.config.train.init is not None:
            return {"start": str(self.config.train.init)}
        self.progress.note(f"fitting the start on {sum(map(len, groups))} items")
        return objective.bridge.fit(Pairs(objective, groups))

    def _resume(self, trainer: Trainer, begun: Path) -> int:
        self.learnt = hashes_of(begun / checkpoint.BRIDGE)
        state = checkpoint.load(begun, trainer.objective.bridge, trainer.optimiser.optimizer)
        if state["data"] != self._data():
            fix = "bring back what it read, or start a new run"
            raise DataError("the training items are not those that this run began with", where="data", fix=fix)
        trainer.restore(state)
        self.losses, self.best = state["losses"], state["best"]
        self.begin -= state["seconds"]
        if processes.first():
            self.run.keep_metrics(lambda row: comes_before(row, state["step"]))
        self.progress.note(f"going on from {begun.name}")
        return state["step"]

    @cached_property
    def _hashes(self) -> str:
        """Of all training items, in their order."""
        return "".join(item_hash(example.item) for example in self.examples)

    def _data(self) -> str:
        """What tells these training items, in this order, from others."""
        return hashlib.sha256(self._hashes.encode()).hexdigest()

    def _log(self, step: Step, figures: dict[str, float]) -> None:
        losses = {k: v for k, v in figures.items() if k not in ("learning_rate", "tokens_per_second")}
        self.losses = losses or self.losses  # none where every step was skipped
        record = {"step": step.overall + 1, "event": "train", "stage": step.stage.name, **figures}
        skipped = {"skipped": self.trainer.skips.total} if self.trainer.skips.total else {}
        self._record({**record, **skipped, "seconds": self._seconds()})

    def _record(self, record: Mapping[str, Any]) -> None:
        """One row more in metrics.jsonl, and in the tracker."""
        if processes.first():
            self.run.log(record)
        track(self.trainer.accelerator, record)

    def _checkpoint(self, trainer: Trainer, step: Step) -> None:
        """On disk, if this is the first process; in every one, what is free goes back to the system."""
        give_back()
        if not processes.first():
            return
        state = {
            "step": step.overall + 1,
            "stage": step.stage.name,
            "losses": self.losses,
            "best": self.best,
            "data": self._data(),
            "seconds": self._seconds(),
            **trainer.state(),
        }
        bridge, optimiser = trainer.objective.bridge, trainer.optimiser.optimizer
        document, keep = self._document(step.overall + 1), self.config.train.keep_checkpoints
        checkpoint.save(self.run.checkpoints, bridge, optimiser, document, state, keep)

    def _keep_best(self, bridge: Bridge, step: int, accuracy: Mapping[str, float]) -> None:
        """The bridge as it is, if none before validated better; the earlier one of equals stays."""
        if self.best is None or accuracy["bridge"] > self.best["bridge"]:
            document = self._document(step)
            document["training"]["validation"] = dict(accuracy)
            if processes.first():
                save_bridge(self.run.checkpoints / checkpoint.BEST, bridge, document)
            self.best = {"step": step, **accuracy}

    def _validate(self, bridge: Bridge, examples: Sequence[Example], step: int) -> dict[str, Any] | None:
        """Arms and losses on items that training never sees."""
        if not self.config.train.eval_samples:
            return None
        try:
            result = evaluate_held_out(self.config, self.pair, bridge, examples, self.progress)
        except Stopped:
            self.progress.note(f"step {step}, validation: interrupted")
            return None
        del result["items"]  # a validation is for the curve; `helmas eval` is for reading
        accuracy = {name: arm["accuracy"] for name, arm in result["arms"].items()}
        self._keep_best(bridge, step, accuracy)
        figures = {**accuracy, **self.trainer.held_out(examples, step)}
        self.progress.note(f"step {step}, validation: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        self._record({"step": step, "event": "validation", "n": result["n"], **figures, "seconds": self._seconds()})
        return result

    def _validate_last(self, bridge: Bridge, examples: Sequence[Example], step: int) -> dict[str, Any] | None:
        """The bridge is complete and saved by now, so that even a hard stop costs nothing but the scores."""
        try:
            scores = self._validate(bridge, examples, step)
        except KeyboardInterrupt:
            scores = None
        if scores is None and self.config.train.eval_samples:
            self.progress.note("training is complete and the bridge saved; only its last validation is missing")
        return scores

    def _document(self, steps: int) -> dict[str, Any]:
        config = self.config
        names = ",".join(config.data.learnt())
        seen = {"dataset": names, "split": config.data.split, "items": len(self.examples)}
        training = {
            **seen,
            **({"mix": config.data.shares()} if config.data.mix else {}),
            "steps": steps,
            "seed": config.train.seed,
            "shuffled": config.train.shuffled,
            "hashes": join_hashes(self.learnt, self._hashes),
            "stages": [s.model_dump() for s in config.train.schedule()],
        }
        return describe(config, self.pair, training)

    def _result(self, bridge: Bridge, steps: int, scores: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "schema": 1,
            "command": "train",
            "run": str(self.run.path),
            "bridge": str(self.run.bridge),
            **bridge.parameter_counts(),
            "steps": steps,
            "seconds": self._seconds(),
            "losses": self.losses,
            "skipped": self.trainer.skips.total,
            "best": self.best,
            "eval": scores,
        }

    def _seconds(self) -> float:
        return round(time.perf_counter() - self.begin, 2)


def hashes_of(path: Path) -> str:
    """The packed hashes of what a bridge was trained on; "" where it does not tell."""
    return str(read_metadata(path)["training"].get("hashes", ""))


def comes_before(row: Mapping[str, Any], step: int) -> bool:
    """Whether a row of metrics.jsonl was written before the checkpoint of `step`, which its validation follows."""
    return row["step"] < step or (row["step"] == step and row["event"] != "validation")


def train_bridge(config: Config, pair: Pair, run: Run, progress: Progress, resume: bool = False) -> dict[str, Any]:
    """Train a bridge for `pair` in the folder of `run`; returns the `train --json` document."""
    return Session(config, pair, run, progress).go(resume)
