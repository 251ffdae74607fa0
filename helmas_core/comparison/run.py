"""Train every variant in a folder of its own and evaluate all of them on the same items.

What is done is not done again: a comparison that was interrupted goes on where it was, step by step. A variant that
cannot be trained is named with its reason, and the others are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from helmas_core.bridges.artefact import load_bridge, read_metadata
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import check_method, method, method_mode
from helmas_core.comparison.result import BRIDGED, beside
from helmas_core.config import Config, StageConfig
from helmas_core.errors import ConfigError, HelmasError, WriteError
from helmas_core.evaluation.evaluate import evaluate
from helmas_core.evaluation.learnt import learnt_items
from helmas_core.lock import locked
from helmas_core.models.pair import Pair
from helmas_core.progress import Progress, Stopped
from helmas_core.runs import BRIDGE, Run, check_same_config, create_run, flat
from helmas_core.training.session import train_bridge

Configs = Mapping[str, Config]
Load = Callable[[Config], Pair]
Open = Callable[[str, Config], tuple[Path, Pair, Bridge]]
_DECIDES_PAIR = ("handoff", "latent_steps", "chat_template")


def learnable(config: Config) -> Config:
    """The configuration without losses that its method cannot learn from; `ce` where none is left."""
    able, stages = method(config.bridge.method).losses, config.train.stages
    kept = [(stage, {name: w for name, w in stage.losses.items() if name in able}) for stage in stages]
    left = tuple(stage.model_copy(update={"losses": losses}) for stage, losses in kept if losses)
    left = left or (StageConfig(name="answers", steps=sum(s.steps for s in stages) or 1, losses={"ce": 1.0}),)
    train = config.train.model_copy(update={"stages": left, "steps": config.train.steps or config.train.total_steps()})
    return config.model_copy(update={"train": train})


def check_configs(configs: Configs) -> None:
    """ConfigError, with its variant named, for what a method cannot do."""
    for name, config in configs.items():
        try:
            check_method(config.bridge, config.train, config.data.handoff)
        except ConfigError as error:
            raise ConfigError(error.what, where=f"{name}: {error.where}", fix=error.fix) from error


class RefusedError(Exception):
    """A variant cannot be trained, for a `reason`."""

    def __init__(self, reason: HelmasError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Comparison:
    """One run of `helmas compare` in the folder `out`; `load` makes a configuration's pair."""

    def __init__(self, out: Path, load: Load, progress: Progress, argv: Sequence[str] = ()) -> None:
        self.out, self.load, self.progress, self.argv = out, load, progress, argv
        self.pairs: list[tuple[Config, Pair]] = []
        self.refused: dict[str, str] = {}

    def go(self, configs: Configs) -> dict[str, Any]:
        """The `compare --json` document. Stopped is raised when a person asks for it, and what the last variant was
        refused for where none could be trained."""
        first = next(iter(configs.values()))
        runs = self._train_all(configs)
        configs = {name: configs[name] for name in runs}
        names = first.data.names()
        reports = [evaluate_beside(dataset, configs, self._open, self.progress, first) for dataset in names]
        return {
            "schema": 1,
            "command": "compare",
            "out": str(self.out),
            "pair": self._pair(next(iter(configs.values()))).describe(),  # the first may have been refused for its own
            "seed": first.train.seed,
            "variants": [describe(name, config, first, runs[name]) for name, config in configs.items()],
            "refused": self.refused,
            "reports": reports,
        }

    def _train_all(self, configs: Configs) -> dict[str, Run]:
        runs = dict[str, Run]()
        for name, config in configs.items():
            try:
                runs[name] = self._train(name, config)
            except RefusedError as error:
                if not runs and len(self.refused) + 1 == len(configs):
                    raise error.reason from error
                self.refused[name] = str(error.reason)
                self.progress.note(f"{name}: refused: {error.reason}")
        return runs

    def _pair(self, config: Config) -> Pair:
        """The configuration's pair; models are loaded anew only where another configuration needs others."""
        for known, pair in self.pairs:
            if _pair_of(known) == _pair_of(config):
                return pair
        self.pairs = [(config, self.load(config))]  # two pairs at once may exceed the memory
        return self.pairs[0][1]

    def _train(self, name: str, config: Config) -> Run:
        with locked(self.out / name, self.progress.note):
            run, resume = self._take_up(self.out / name, config)
            if run is None:
                self.progress.note(f"{name}: trained before")
                return Run(self.out / name)
            self.progress.note(f"{name}: training")
            if self._finish(run, config, resume) == "interrupted":
                raise Stopped
            return run

    def _finish(self, run: Run, config: Config, resume: bool) -> str:
        """Train; how it ended, which the manifest says whatever happens. RefusedError for what other variants may be
        free of, as of a full disk they are not."""
        try:
            run.write_report(train_bridge(config, self._pair(config), run, self.progress, resume))
            status = "interrupted" if self.progress.stop_requested() else "done"
            run.finish(status)
            return status
        except BaseException as error:
            with suppress(OSError):  # what went wrong is worth more than a manifest that a full disk does not take
                run.finish("interrupted" if isinstance(error, KeyboardInterrupt | Stopped) else "failed")
            if isinstance(error, HelmasError) and not isinstance(error, WriteError):
                raise RefusedError(error) from error
            raise

    def _take_up(self, path: Path, config: Config) -> tuple[Run | None, bool]:
        """The run to train, None for one that is done; and whether it goes on from a checkpoint."""
        known = Run(path)
        if known.config is not None:
            check_same_config(path, config)
        if (known.manifest or {}).get("status") == "done" and known.bridge.is_file():
            return None, False
        begun = known.checkpoints.is_dir() and any(known.checkpoints.glob("step-*"))
        return create_run(
            path, config, self.argv, resume=begun, overwrite=known.config is not None and not begun
        ), begun

    def _open(self, name: str, config: Config) -> tuple[Path, Pair, Bridge]:
        pair, path = self._pair(config), self.out / name / BRIDGE
        return path, pair, load_bridge(path, pair)


def evaluate_beside(
    dataset: str, configs: Configs, opened: Open, progress: Progress, asked: Config | None = None
) -> dict[str, Any]:
    """Every variant on `dataset`, as `beside` puts them; arms without a bridge are run for the first alone.

    All answer the items that the split, limit and seed of the first one `asked` for draw, against which they are set if
    it is among them. DataError for a bridge that has learnt some of them, unless that is allowed.
    """
    reports: dict[str, dict[str, Any]] = {}
    lead = next(iter(configs.values()))
    first = lead if asked is None else asked
    for name, config in configs.items():
        shared = bool(reports) and read_alike(config, lead)
        arms = tuple(arm for arm in config.eval.arms if not shared or arm in BRIDGED)
        one = _on_items_of(first, config, dataset, arms)
        progress.note(f"{name}: evaluating on {dataset}")
        path, pair, bridge = opened(name, one)
        overlap = learnt_items(one, read_metadata(path)["training"])
        reports[name] = {**evaluate(one, pair, bridge, progress), "overlap": overlap}
    return beside(reports, first.train.seed, first.eval.minimum_n, first.eval.allow_inexact, lead is first)


def _on_items_of(first: Config, config: Config, dataset: str, arms: tuple[str, ...]) -> Config:
    """The configuration on the items that `first` draws: bridges trained with other seeds would draw others."""
    chosen = {"arms": arms, "split": first.eval.split, "limit": first.eval.limit}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"dataset": dataset}),
            "eval": config.eval.model_copy(update=chosen),
            "train": config.train.model_copy(update={"seed": first.train.seed}),
        }
    )


def _pair_of(config: Config) -> tuple[Any, ...]:
    return (config.pair, *(getattr(config.data, key) for key in _DECIDES_PAIR))


def read_alike(config: Config, first: Config) -> bool:
    """Whether both have the models read the same, so that arms without a bridge agree."""
    return _pair_of(config) == _pair_of(first) and (config.data, config.eval) == (first.data, first.eval)


def describe(name: str, config: Config, first: Config, run: Run) -> dict[str, Any]:
    """What a variant is and what its training took; `changes` are the keys in which it differs from the first."""
    trained = run.report or {}
    counts = {key: value for key, value in trained.items() if key.endswith("parameters")}
    return {
        "name": name,
        "run": str(run.path),
        "method": config.bridge.method,
        "mode": method_mode(config.bridge),
        **counts,
        "steps": trained.get("steps"),
        "train_seconds": trained.get("seconds"),
        "losses": trained.get("losses"),
        "changes": changes(config, first),
    }


def changes(config: Config, first: Config) -> dict[str, Any]:
    """The keys, joined by dots, in which a configuration differs from the first."""
    ours, theirs = (flat(one.model_dump(mode="json")) for one in (config, first))
    return {key: ours.get(key) for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)}
