"""Files that a person writes: rows of data, prose, profiles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helmas_core.bridges.registry import check_method
from helmas_core.data.tasks import get_task, load_items
from helmas_core.layering import load_config
from tests.fuzz.format import Format

PROFILES = Path(__file__).parents[2] / "profiles"


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


def _profile(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        shutil.copyfile(PROFILES / f"{name}.toml", folder / "profile.toml")

    return make


def _read_profile(folder: Path) -> None:
    found = load_config([str(folder / "profile.toml")])
    check_method(found.bridge, found.train, found.data.handoff)


FORMATS = (
    Format("profile: lab", "text", 5, ("profile.toml",), _profile("lab"), _read_profile),
    Format("profile: h200", "text", 4, ("profile.toml",), _profile("h200"), _read_profile),
    Format("profile: c2c", "text", 5, ("profile.toml",), _profile("c2c"), _read_profile),
    Format("rows: jsonl", "lines", 10, ("rows.jsonl",), _rows("jsonl"), _read_rows("jsonl")),
    Format("rows: gsm8k", "lines", 6, ("gsm8k/test.jsonl",), _rows("gsm8k"), _read_rows("gsm8k")),
    Format("rows: math", "lines", 6, ("math/test.jsonl",), _rows("math"), _read_rows("math")),
    Format("rows: arc", "lines", 6, ("arc/test.jsonl",), _rows("arc"), _read_rows("arc")),
    Format("rows: mmlu", "lines", 6, ("mmlu/test.jsonl",), _rows("mmlu"), _read_rows("mmlu")),
    Format("rows: openhermes", "lines", 4, ("openhermes/test.jsonl",), _rows("openhermes"), _read_openhermes),
    Format("text", "text", 2, ("prose.txt",), _text, _read_text),
)
