"""Tasks of lm-evaluation-harness, an extra: found by name or path, run over the arms, told as `eval` tells its own."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from helmas_core.bridges.base import Bridge
from helmas_core.config import Config
from helmas_core.data import parse
from helmas_core.data.item import Item
from helmas_core.data.task import Task
from helmas_core.errors import ConfigError, DataError
from helmas_core.evaluation.findings import Answered, report_of
from helmas_core.evaluation.harness import HarnessModel
from helmas_core.evaluation.tally import Tally
from helmas_core.handoff.examples import Example
from helmas_core.models.pair import Pair
from helmas_core.progress import Progress

TaskManager: Any = importlib.import_module("lm_eval.tasks").TaskManager
evaluator: Any = importlib.import_module("lm_eval.evaluator")

Sample = Mapping[str, Any]
YAML = (".yaml", ".yml")
INVALID = "[invalid]"  # what the harness's filters leave of an answer that they cannot read
FEWSHOT_SEED = 1234  # the harness's own
_ELSE = "see its own figures with `python -m helmas_core.lm_eval --model helmas`"


@dataclass(frozen=True)
class Chosen:
    """A task or a group as it was asked for, and what the harness loaded for it, data included."""

    name: str
    loaded: Mapping[str, Any]

    @property
    def tasks(self) -> dict[str, Any]:
        return self.loaded["tasks"]

    @property
    def split(self) -> str:
        config = next(iter(self.tasks.values())).config
        return str(config.test_split or config.validation_split)


def choose_tasks(text: str) -> list[Chosen]:
    """The tasks of `--lm-eval A,B`: names of the harness, or paths, which hold a slash or end in .yaml: a file, or a
    folder of which every task runs. Their data is read here. DataError for what is not there or cannot be had."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("no task given", where="--lm-eval", fix="name one, such as arc_challenge, or a YAML file")
    return [chosen for name in names for chosen in _choose(name)]


def _choose(name: str) -> list[Chosen]:
    path = Path(name).expanduser()
    if path.suffix not in YAML and "/" not in name:
        return [_built_in(name)]
    if not path.exists():
        raise DataError("no such file or folder", where=name, fix="give a task's YAML, or a folder of them")
    if path.is_file():
        return [_of_file(path)]
    manager = _manager(path)
    if not manager.all_subtasks:
        raise DataError("no YAML of a task in this folder", where=name, fix="see lm-eval's guide to new tasks")
    return [_load(manager, task, task) for task in manager.all_subtasks]


def _of_file(path: Path) -> Chosen:
    """By its name, which its folder tells: given a group's path, the harness takes the names in it for its own."""
    manager = _manager(path.parent)
    found = (name for name, entry in manager.task_index.items() if entry.yaml_path and path.samefile(entry.yaml_path))
    name = next(found, str(path))
    return _load(manager, name, name)


def _built_in(name: str) -> Chosen:
    manager = _all()
    if name not in manager.all_tasks:
        close = difflib.get_close_matches(name, manager.all_tasks, n=1)
        fix = f'did you mean "{close[0]}"?' if close else "`lm-eval ls tasks` lists them; a path needs a slash"
        raise DataError(f'unknown task "{name}"', where="--lm-eval", fix=fix)
    return _load(manager, name, name)


def _manager(folder: Path) -> Any:
    """Knows the tasks in `folder` alone."""
    return TaskManager(include_path=str(folder), include_defaults=False)


@lru_cache
def _all() -> Any:
    """Knows the thousands of tasks that the harness brings, which takes a while."""
    return TaskManager()


def _load(manager: Any, spec: str, name: str) -> Chosen:
    try:
        loaded = manager.load([spec])
    except Exception as error:  # whatever a data set's or a task's own code raises
        what = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        fix = "mend the task, or its file"
        if isinstance(error, OSError):
            fix = "fetch its data once where there is a network (it is kept), or give a YAML over a local file"
        raise DataError(f"cannot be loaded: {what}", where=name, fix=fix) from error
    chosen = Chosen(name, loaded)
    if any(task.OUTPUT_TYPE == "loglikelihood_rolling" for task in chosen.tasks.values()):
        raise DataError("no answer of this task is right or wrong, so it has no accuracy", where=name, fix=_ELSE)
    return chosen


def evaluate_task(
    config: Config, pair: Pair, bridge: Bridge | None, chosen: Chosen, shots: int | None, progress: Progress
) -> dict[str, Any]:
    """The `eval --json` document of `chosen` over eval.arms, up to eval.limit items of each of its tasks, and under
    "items" what every arm said; "harness" holds the harness's own figures.

    An item counts by the first metric that says right or wrong of every item; DataError where none does.
    """
    runs = {arm: _run(config, pair, bridge, arm, chosen, shots, progress) for arm in config.eval.arms}
    tallies, examples = {arm: Tally(truncated=cut) for arm, (_, cut) in runs.items()}, list[Example]()
    metrics: dict[str, str] = {}
    for name, task in chosen.tasks.items():
        samples = {arm: found["samples"][name] for arm, (found, _) in runs.items()}
        metric, kind = _right_or_wrong(chosen.name, samples)
        metrics[name] = f"{metric},{kind}"
        kept = {arm: [one for one in some if one["filter"] == kind] for arm, some in samples.items()}
        asked = [_example(task, name, one, len(chosen.tasks) > 1) for one in next(iter(kept.values()))]
        for arm, some in kept.items():
            for example, sample in zip(asked, some, strict=True):
                _count(tallies[arm], task, example, sample, metric)
        examples += asked
    harness = {"lm_eval": version("lm_eval"), "metrics": metrics, "results": _figures(runs)}
    harness["fewshot"] = {name: task.get_config("num_fewshot") for name, task in chosen.tasks.items()}
    told = config.model_copy(update={"data": config.data.model_copy(update=_handed_over(config, chosen.name))})
    return report_of(Answered(told, pair, bridge, chosen.split, examples, tallies), harness=harness)


def _handed_over(config: Config, name: str) -> dict[str, str]:
    """No reasoning comes with the harness's items: a bridge for it hands the context over."""
    return {"dataset": name, "handoff": "latent" if config.data.handoff == "latent" else "prompt"}


def _run(
    config: Config, pair: Pair, bridge: Bridge | None, arm: str, chosen: Chosen, shots: int | None, progress: Progress
) -> tuple[dict[str, Any], int]:
    """(what the harness found, answers that were cut off)."""
    for task in chosen.tasks.values():
        own = task.get_config("num_fewshot")
        task.set_config("num_fewshot", own or 0 if shots is None or own == 0 else shots)  # 0: the task knows better
        task.set_fewshot_seed(FEWSHOT_SEED)
    model, chat = HarnessModel(pair, bridge, arm, config.eval.batch, config.train.seed, progress), bool(pair.template)
    found = evaluator.evaluate(
        model, chosen.loaded, limit=config.eval.limit, apply_chat_template=chat, fewshot_as_multiturn=chat
    )
    return found, model.truncated


def _right_or_wrong(name: str, arms: Mapping[str, Sequence[Sample]]) -> tuple[str, str]:
    """(metric, filter): the first that is 0 or 1 for every item in every arm."""
    every = [sample for some in arms.values() for sample in some]
    for metric, kind in dict.fromkeys((metric, one["filter"]) for one in every for metric in one["metrics"]):
        if all(_is_mark(one.get(metric)) for one in every if one["filter"] == kind):
            return metric, kind
    raise DataError("no metric says right or wrong of every item, so there is no accuracy", where=name, fix=_ELSE)


def _is_mark(value: Any) -> bool:
    return isinstance(value, Number | np.bool_) and value in (0, 1)


def _example(task: Any, name: str, sample: Sample, grouped: bool) -> Example:
    """What reports show of an item."""
    asked, choices = task.doc_to_text(sample["doc"]), _choices(task, sample)
    question = asked if isinstance(asked, str) else sample["arguments"][0][0]
    target = sample["target"]
    answer = choices[target] if isinstance(target, int) and 0 <= target < len(choices) else str(target)
    item = Item(f"{name}-{sample['doc_id']}", question, answer, choices=choices, category=name if grouped else "")
    return Example(item, Task(name, parse.WHOLE, {}), (), (), (), (), (), ())


def _choices(task: Any, sample: Sample) -> tuple[str, ...]:
    return tuple(map(str, task.doc_to_choice(sample["doc"]))) if task.OUTPUT_TYPE == "multiple_choice" else ()


def _count(tally: Tally, task: Any, example: Example, sample: Sample, metric: str) -> None:
    key = (example.task.name, example.item.id)
    tally.right[key] = bool(sample[metric])
    tally.texts[key] = _said(task, example.item.choices, sample)
    tally.unparsed += INVALID in map(str, sample["filtered_resps"])


def _said(task: Any, choices: Sequence[str], sample: Sample) -> str:
    """What was written, or the likeliest choice."""
    if task.OUTPUT_TYPE == "generate_until":
        return str(sample["resps"][0][0])
    scores = [float(likelihood) for likelihood, _ in sample["filtered_resps"]]
    if not choices:
        return f"log-likelihood {scores[0]:.3f}"
    return choices[int(np.argmax(scores[: len(choices)]))]


def _figures(runs: Mapping[str, tuple[Mapping[str, Any], int]]) -> dict[str, dict[str, dict[str, Any]]]:
    """arm -> task or group -> "metric,filter" -> value, as the harness tells them."""
    return {
        arm: {name: _numbers(row) for name, row in {**found["results"], **found.get("groups", {})}.items()}
        for arm, (found, _) in runs.items()
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A standard error may be "N/A"."""
    return {key: float(value) for key, value in row.items() if "," in key and not isinstance(value, str)}
