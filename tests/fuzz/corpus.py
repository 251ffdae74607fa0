"""Small valid files of every format that helmas reads, and what reads each: the readers that the commands use."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import torch

from helmas_cli.commands import pool, runs
from helmas_cli.options import Common
from helmas_cli.repl import Repl
from helmas_cli.report import show_reports
from helmas_cli.ui import Screen
from helmas_core.bridges import artefact
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge, check_method
from helmas_core.config import BridgeSection, Config
from helmas_core.data.tasks import get_task, load_items
from helmas_core.errors import DataError, HelmasError
from helmas_core.evaluation.compare import answers, compare_runs, reports_of
from helmas_core.evaluation.figures import curve_figure
from helmas_core.handoff.examples import Thought
from helmas_core.handoff.store import Store
from helmas_core.handoff.thoughts import Thoughts
from helmas_core.layering import load_config
from helmas_core.models.gguf_header import gguf_values
from helmas_core.models.loading import find_problems
from helmas_core.models.pair import Pair
from helmas_core.models.sources import check_local_size, read_config, read_tokenizer
from helmas_core.plain import harmless
from helmas_core.runs import Run, check_same_config, create_run, is_run, read_metrics, to_json
from helmas_core.training import checkpoint
from helmas_core.transcript import Exchange, Settings, Transcript, read_transcript, write_transcript
from tests.evidence import SAMPLE, curves, items
from tests.tiny import tiny_model, tiny_pair

KEYS = [letter * 64 for letter in "abc"]
PROFILES = Path(__file__).parents[2] / "profiles"
LAB = Path(__file__).parents[2] / "helmas_core/lab/student"


@dataclass(frozen=True)
class Format:
    """`seeds` are whole folders; in each, `names` are the files to harm; `read` takes the folder.

    `share` is the format's part of all files, by weight.
    """

    name: str
    kind: str
    share: int
    names: tuple[str, ...]
    make: Callable[[Path], None]
    read: Callable[[Path], None]


@cache
def pair() -> Pair:
    shape: dict[str, Any] = {"layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "vocab_size": 512}
    return tiny_pair(tiny_model("qwen3", seed=1, **shape), tiny_model("llama", seed=2, **shape))


@cache
def config() -> Config:
    return load_config(["lab"], ["bridge.method=ridge", "bridge.neighbours=2"])


@cache
def trained() -> tuple[Bridge, torch.optim.Optimizer]:
    """A bridge and an optimiser that has taken a step."""
    torch.manual_seed(0)
    bridge = build_bridge(BridgeSection.model_validate({"layer_blending": "skip", "projector_depth": 1}), pair())
    optimiser = torch.optim.AdamW(bridge.parameters())
    for parameter in bridge.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return bridge, optimiser


def _document(section: dict[str, Any]) -> dict[str, Any]:
    whole = Config(bridge=BridgeSection.model_validate(section))
    training = {"dataset": "relay", "split": "train", "items": 2, "seed": 0, "hashes": "0" * 32, "stages": []}
    return artefact.describe(whole, pair(), training)


def _bridge(folder: Path) -> None:
    section = {"layer_blending": "skip", "projector_depth": 1}
    artefact.save_bridge(folder / "bridge.safetensors", trained()[0], _document(section))


def _read_bridge(folder: Path) -> None:
    artefact.load_bridge(folder / "bridge.safetensors", pair())


def _read_metadata(folder: Path) -> None:
    document = artefact.read_metadata(folder / "bridge.safetensors")
    found = load_config(base=document["config"])
    check_method(found.bridge, found.train, found.data.handoff)


def _checkpoint(folder: Path) -> None:
    bridge, optimiser = trained()
    trained_so_far = {"scaler": {}, "terms": {"ce": [0.5]}, "micro_batch": None, "skipped": [0, 0]}
    found = {"losses": {"loss": float("nan"), "ce": 0.5}, "best": {"step": 2.0, "bridge": 0.5}, "data": "00"}
    state = {"step": 3, **found, **trained_so_far, "seconds": 1.5}
    checkpoint.save(folder, bridge, optimiser, _document({"layer_blending": "skip", "projector_depth": 1}), state)


def _read_checkpoint(folder: Path) -> None:
    checkpoint.load(checkpoint.steps(folder)[-1], *trained())  # whatever its checksums say


def _store(folder: Path) -> None:
    entry = {
        "keys.data": torch.arange(12.0).view(1, 2, 3, 2),
        "values.data": torch.ones(1, 2, 3, 2, dtype=torch.bfloat16),
    }
    Store(folder, 1.0).put({key: {name: one.clone() for name, one in entry.items()} for key in KEYS})
    shard = next(folder.glob("*.safetensors"))
    shard.rename(folder / f"{'d' * 64}.safetensors")


def _noted(notes: list[str]) -> None:
    """What is skipped with a note counts as refused."""
    if notes:
        raise DataError(notes[0])


def _read_store(folder: Path) -> None:
    notes: list[str] = []
    store = Store(folder, 1.0, notes.append)
    for key in KEYS:
        store.get(key)
    _noted(notes)


def _thoughts(folder: Path) -> None:
    Thoughts(folder).put({key: Thought(f"Bo has {i} eggs.\u2028 So {i}.", 9, 0.5, False) for i, key in enumerate(KEYS)})
    next(folder.glob("*.jsonl")).rename(folder / f"{'e' * 64}.jsonl")


def _read_thoughts(folder: Path) -> None:
    notes: list[str] = []
    Thoughts(folder, notes.append)
    _noted(notes)


def _turn(who: str, said: str) -> dict[str, str]:
    return {"from": who, "value": said}


ROWS: dict[str, list[dict[str, Any]]] = {
    "jsonl": [{"prompt": f"What is {i}?", "reasoning": "because", "answer": i, "category": "a"} for i in range(4)],
    "gsm8k": [{"question": f"{i} eggs?", "answer": f"So <<1+{i}=2>> it is.\n#### {i},000"} for i in range(4)],
    "math": [
        {"problem": f"${i}^2$?", "solution": f"It is $\\boxed{{\\frac{{{i}}}{{2}}}}$.", "level": 1} for i in range(4)
    ],
    "arc": [
        {"question": f"q{i}", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"} for i in range(4)
    ],
    "mmlu": [{"question": f"q{i}", "choices": ["w", "x", "y", "z"], "answer": 3, "subject": "law"} for i in range(4)],
    "openhermes": [{"conversations": [_turn("human", f"hi {i}"), _turn("gpt", "yes")]} for i in range(12)],
}


def _rows(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        target = folder / "rows.jsonl" if name == "jsonl" else folder / name / "test.jsonl"
        target.parent.mkdir(exist_ok=True)
        target.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))

    return make


def _read_rows(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        if name == "jsonl":
            load_items(get_task(f"jsonl:{folder / 'rows.jsonl'}"), "all")
        else:
            task = get_task(name)
            split = next(
                split for split, part in task.splits.items() if part.file in ("test", "train") and not part.pools
            )
            load_items(task, split, data_dir=folder)

    return read


def _read_openhermes(folder: Path) -> None:
    shutil.copyfile(folder / "openhermes/test.jsonl", folder / "openhermes/train.jsonl")
    load_items(get_task("openhermes"), "train", data_dir=folder)


def _text(folder: Path) -> None:
    told = "In 1849 the old mill at Ribe burned down twice. Nobody in the quiet town would say who had done it.\n\n"
    (folder / "prose.txt").write_text(
        told * 3 + "Later, Anna Holm wrote of a harvest that failed, and left for Boston.\n"
    )


def _read_text(folder: Path) -> None:
    load_items(get_task(f"text:{folder / 'prose.txt'}"), "all", piece=200)
    load_items(get_task(f"cloze:{folder / 'prose.txt'}"), "all", piece=200)


def _run(folder: Path) -> None:
    """A run with everything in it, beside a second one with the same items."""
    for name in ("one", "two"):
        run = create_run(folder / name, config(), ["helmas", "train"], profiles_text="[pair]\n")
        right = dict.fromkeys(SAMPLE["arms"], "01" * 5)
        outcomes = {"items": [["relay", str(i)] for i in range(10)], "right": right}
        report = {
            **SAMPLE,
            "outcomes": outcomes,
            "costs": {"bridge": {"seconds": {"bridge": 0.1}, "cold": {"p50": 0.2}}},
        }
        report |= {
            "reasoning": {"names_answer": 0.1, "items": 10},
            "verdict": {"text": "content effect +.80"},
            "split": "test",
        }
        run.write_report(report)
        (run.path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items("x", 4)))
        run.metrics.write_text("".join(to_json(row, indent=None) + "\n" for row in curves()))
        run.finish("done")


def _silent(show: Callable[[Screen], Any]) -> None:
    """What a command prints, on both streams, must be harmless."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        show(Screen())
    raw = [char for char in {*out.getvalue(), *err.getvalue()} if not harmless(char)]
    assert not raw, f"raw characters reach the terminal: {raw!r}"


def _some(folder: Path, name: str, one_in: int) -> bool:
    """Whether to do what takes its time with this file: with one in so many."""
    return (folder / name).stat().st_size % one_in == 0


def _read_report(folder: Path) -> None:
    run = Run(folder / "one")
    runs.summary(run)
    if run.report is None:
        raise DataError("no report")
    if _some(folder, "one/report.json", 4):
        _silent(lambda screen: show_reports(screen, reports_of(run.report)))


def _read_pooled(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        pool.pool(Common(json=True, quiet=True, profile=["lab"]), [str(folder / "one"), str(folder / "two")])


def _read_run(folder: Path) -> None:
    run = Run(folder / "one")
    runs.summary(run)
    if not is_run(run.path):
        raise DataError("no run")
    check_same_config(run.path, config())
    if _some(folder, "one/config.json", 8):
        found = compare_runs([run, Run(folder / "two")])
        _silent(lambda screen: runs._show_comparison(screen, found))


def _read_items(folder: Path) -> None:
    if len(answers(folder / "one")) < 4:
        raise DataError("lines left out")


def _read_metrics(folder: Path) -> None:
    rows = read_metrics(folder / "one/metrics.jsonl")
    if not rows:
        raise DataError("no rows")
    if len(rows) == 2:  # a figure takes its time
        curve_figure({"": rows})


def _transcript(folder: Path) -> None:
    turn = Exchange(question="wer?", answer="Bo \u00e9\U0001f600", bridged=True, stopped=True)
    models: dict[str, str | None] = {"bridge": None, "teacher": "0" * 16}
    write_transcript(
        folder / "talk.json", Transcript(system="", bridged=True, settings=Settings(), models=models, turns=(turn,))
    )


def _read_transcript(folder: Path) -> None:
    read_transcript(folder / "talk.json")


class Parrot:
    """A conversation that answers with the question and touches no file."""

    def __init__(self) -> None:
        self.bridged, self.settings, self.said = True, Settings(), list[str]()

    def ask(self, text: str, on_token: Callable[[str], None]) -> Any:
        self.said.append(text)
        for char in text[:500]:
            on_token(char)
        return SimpleNamespace(text=text, seconds={"answer": 0.1}, tokens=1, new=1, kept=0, stopped=False)

    def compare(self) -> dict[str, str]:
        return {"student": self.said[-1]} if self.said else {}

    def inspect(self) -> dict[str, Any]:
        return {"layers": [{"layer": 0, "k_norm": 1.5}]}

    def set(self, key: str, value: str) -> None:
        self.settings = self.settings.changed(key, value)

    def bytes(self) -> dict[str, int]:
        return {"teacher": 2**20}

    def save(self, path: Path) -> None:
        self.said.append(str(path))

    def load(self, path: Path) -> None:
        self.said.append(str(path))

    def undo(self) -> str | None:
        return self.said.pop() if self.said else None

    def reset(self) -> None:
        self.said.clear()


def _chat(folder: Path) -> None:
    lines = [
        "Hello there\\",
        "and more",
        "/set temperature 0.7",
        "/set seed 3",
        "/stats",
        "/compare",
        "/undo",
        "/save a.json",
    ]
    (folder / "typed.txt").write_text(
        "\n".join([*lines, "/load b.json", "/bridge off", "/help", "last words \U0001f600"])
    )


def _read_chat(folder: Path) -> None:
    typed = io.TextIOWrapper(io.BytesIO((folder / "typed.txt").read_bytes()), "utf-8", errors="replace")
    _silent(lambda screen: [Repl(Parrot(), screen, has_bridge=True, interactive=True).run(typed)])


def _profile(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        shutil.copyfile(PROFILES / f"{name}.toml", folder / "profile.toml")

    return make


def _read_profile(folder: Path) -> None:
    found = load_config([str(folder / "profile.toml")])
    check_method(found.bridge, found.train, found.data.handoff)


def _model(folder: Path) -> None:
    """The lab's tokenizer with a tiny model, its weights in one file and in shards."""
    pair().student.model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(LAB / name, folder / name)


def _sharded(folder: Path) -> None:
    pair().student.model.save_pretrained(folder, max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(LAB / name, folder / name)


def _read_model(folder: Path) -> None:
    """What `doctor` and `load_pair` do before they read weights; problems that they list count as refused."""
    both = {"teacher": str(folder), "student": str(folder)}
    found = find_problems(config().model_copy(update={"pair": config().pair.model_copy(update=both)}))
    if wrong := [problem for problem in found if problem.severity == "error"]:
        raise HelmasError(wrong[0].what)


def _read_tokenizer(folder: Path) -> None:
    read_tokenizer(str(folder))


def _read_weights(folder: Path) -> None:
    check_local_size(str(folder), read_config(str(folder)))


def make_gguf(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(16)
    writer.add_token_list(["<s>", "a", "b\u00e9"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.0, 2.0])
    writer.add_tensor("token_embd.weight", np.ones((3, 16), dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(folder: Path) -> None:
    try:
        gguf_values(folder / "model.gguf")
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error


CHECKPOINT = tuple(f"step-0000003/{name}" for name in ("bridge.safetensors", "optimiser.safetensors", "progress.json"))
SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json")
FORMATS = (
    Format("profile: lab", "text", 5, ("profile.toml",), _profile("lab"), _read_profile),
    Format("profile: h200", "text", 4, ("profile.toml",), _profile("h200"), _read_profile),
    Format("profile: c2c", "text", 5, ("profile.toml",), _profile("c2c"), _read_profile),
    Format("bridge metadata", "tensors", 32, ("bridge.safetensors",), _bridge, _read_metadata),
    Format("bridge", "tensors", 3, ("bridge.safetensors",), _bridge, _read_bridge),
    Format("checkpoint", "tensors", 3, CHECKPOINT, _checkpoint, _read_checkpoint),
    Format("store shard", "tensors", 24, (f"{'d' * 64}.safetensors",), _store, _read_store),
    Format("thoughts", "lines", 14, (f"{'e' * 64}.jsonl",), _thoughts, _read_thoughts),
    Format("rows: jsonl", "lines", 10, ("rows.jsonl",), _rows("jsonl"), _read_rows("jsonl")),
    Format("rows: gsm8k", "lines", 6, ("gsm8k/test.jsonl",), _rows("gsm8k"), _read_rows("gsm8k")),
    Format("rows: math", "lines", 6, ("math/test.jsonl",), _rows("math"), _read_rows("math")),
    Format("rows: arc", "lines", 6, ("arc/test.jsonl",), _rows("arc"), _read_rows("arc")),
    Format("rows: mmlu", "lines", 6, ("mmlu/test.jsonl",), _rows("mmlu"), _read_rows("mmlu")),
    Format("rows: openhermes", "lines", 4, ("openhermes/test.jsonl",), _rows("openhermes"), _read_openhermes),
    Format("text", "text", 2, ("prose.txt",), _text, _read_text),
    Format("report", "json", 5, ("one/report.json",), _run, _read_report),
    Format("reports pooled", "json", 1, ("two/report.json",), _run, _read_pooled),
    Format("run folder", "json", 3, ("one/manifest.json", "one/config.json"), _run, _read_run),
    Format("items", "lines", 8, ("one/items.jsonl",), _run, _read_items),
    Format("metrics", "lines", 4, ("one/metrics.jsonl",), _run, _read_metrics),
    Format("transcript", "json", 12, ("talk.json",), _transcript, _read_transcript),
    Format("chat input", "text", 2, ("typed.txt",), _chat, _read_chat),
    Format("model settings", "json", 1, SETTINGS, _model, _read_model),
    Format("tokenizer", "json", 1, ("tokenizer.json",), _model, _read_tokenizer),
    Format("weights", "tensors", 1, ("model.safetensors",), _model, _read_weights),
    Format("weights index", "json", 1, ("model.safetensors.index.json",), _sharded, _read_weights),
    Format("gguf", "bytes", 18, ("model.gguf",), make_gguf, _read_gguf),
)


def formats(only: str = "") -> Iterator[Format]:
    return (one for one in FORMATS if only in one.name)
