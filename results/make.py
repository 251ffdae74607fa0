"""The results page: `python results/make.py` reads the evaluations `results/*/*.json` and writes table and figure.

Each folder holds what one bridge's evaluations printed (`helmas eval … --json > FOLDER/ROW.json`); what a row is asked
to reach stands in ROWS. `facts@TOKENS.json` and `repeated.json` make its curves,
`comparisons/NAME.json` what `helmas compare … --json` printed. Text between the marks in README.md is
replaced, the rest is written by hand.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PAGE, BEGIN, END = HERE / "README.md", "<!-- table:begin -->", "<!-- table:end -->"
REPEATED, COMPARISONS = "repeated", HERE / "comparisons"
ARMS = {"student": "#b9bec6", "teacher": "#6b7280", "text": "#8a8f98", "bridge": "#2a78d6", "deranged": "#c94f4f"}


@dataclass(frozen=True)
class Row:
    """`of_text`: the bridge's accuracy as a share of the text arm's; `of_gap`: the share of the way from the student
    alone to the teacher. One of them is the goal; `spare` is what `deranged` may have above the student alone."""

    title: str
    of_text: float | None = None
    of_gap: float | None = None
    spare: float | None = None


@dataclass(frozen=True)
class Point:
    x: int
    accuracy: float
    low: float
    high: float


ROWS = {
    "gsm8k-gold": Row("GSM8K, gold reasoning", of_text=0.98, spare=0.02),
    "gsm8k-cut": Row("GSM8K, gold reasoning without its last step", of_text=0.95),
    "gsm8k-generated": Row("GSM8K, reasoning that the teacher wrote", of_text=0.95),
    "facts": Row("private facts", of_text=0.90, spare=0.02),
    "relay": Row("relay stories", of_text=0.80),
    "passages": Row("questions on history passages (MMLU)", of_text=0.85),
    "cloze": Row("a sentence of a passage said on", of_text=0.85),
    "arc": Row("ARC-Challenge, nothing but the prompt", of_gap=0.90, spare=0.03),
    "mmlu": Row("MMLU, nothing but the prompt", of_gap=0.70, spare=0.03),
    "digits": Row("numbers of 1 to 8 digits", of_text=0.90),
    "copy": Row("copying", of_text=0.90),
    "rare": Row("rare names", of_text=0.90),
    "languages": Row("five languages", of_text=0.90),
    "invented": Row("invented names", of_text=0.90),
    "code": Row("code", of_text=0.90),
}
GOALS = {("cross-tokenizer", "gsm8k-gold"): Row("GSM8K, gold reasoning", of_text=0.80, spare=0.02)}  # another pair's


def share(row: Row, arms: dict[str, Any]) -> float | None:
    """What the goal is stated in; None where it has no meaning."""
    value = {name: arm["accuracy"] for name, arm in arms.items()}
    if row.of_text is not None:
        return value["bridge"] / value["text"] if value["text"] else None
    gap = value["teacher"] - value["student"]
    return (value["bridge"] - value["student"]) / gap if gap > 0 else None


def verdict(row: Row, arms: dict[str, Any]) -> str:
    reached, goal = share(row, arms), row.of_text or row.of_gap or 0.0
    fine = reached is not None and reached >= goal
    if row.spare is not None and "deranged" in arms:
        fine = fine and arms["deranged"]["accuracy"] <= arms["student"]["accuracy"] + row.spare
    return "yes" if fine else "**no**"


def number(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.3f}"


def line(row: Row, document: dict[str, Any]) -> str:
    arms, reached = document["arms"], share(row, document["arms"])
    cells = [number(arms[arm]["accuracy"]) if arm in arms else "" for arm in ARMS]
    low, high = arms["bridge"]["ci"]
    cells[list(ARMS).index("bridge")] += f" [{number(low)}, {number(high)}]"
    goal = f"{row.of_text:.2f} × text" if row.of_text is not None else f"{row.of_gap:.2f} of gap"
    ratio = "–" if reached is None else f"{reached:.3f}"
    return f"| {row.title} | {document['n']} | {' | '.join(cells)} | {ratio} | {goal} | {verdict(row, arms)} |"


def table(folder: str, documents: dict[str, dict[str, Any]]) -> list[str]:
    head = ["items never trained on", "n", *ARMS, "reached", "goal", "met"]
    rows = [line(GOALS.get((folder, name), row), documents[name]) for name, row in ROWS.items() if name in documents]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows]


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Documents by row: a file's name, or the data sets' own names where it holds several reports."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in folder.glob("*.json") if path.stem != REPEATED):
        document = json.loads(path.read_text())
        found |= {r["dataset"].split(":")[-1]: r for r in document.get("reports", [])} or {path.stem: document}
    if unknown := [name for name in found if name not in ROWS and "@" not in name]:
        raise SystemExit(f"{folder}: no row for {', '.join(unknown)}: name it in ROWS")
    return found


def describe(folder: Path, documents: dict[str, dict[str, Any]]) -> list[str]:
    bridge, seeds = next(iter(documents.values()))["bridge"], {d["manifest"]["seed"] for d in documents.values()}
    options = ", ".join(f"{key} = {value}" for key, value in bridge["options"].items() if value is not None)
    size = f"{bridge['parameters'] / 1e6:.1f} M parameters"
    return [f"### {folder.name}: {size}", "", f"`{options}`; evaluation seed {', '.join(map(str, sorted(seeds)))}.", ""]


def figure(documents: dict[str, dict[str, Any]], path: Path) -> None:
    """One group of bars for every row, with the bridge's interval."""
    names = [name for name in ROWS if name in documents]
    drawing, axes = plt.subplots(figsize=(2 + 1.5 * len(names), 3.6), layout="constrained")
    shown = {arm: colour for arm, colour in ARMS.items() if any(arm in documents[name]["arms"] for name in names)}
    for place, (arm, colour) in enumerate(shown.items()):
        found = [(i, documents[n]["arms"][arm]) for i, n in enumerate(names) if arm in documents[n]["arms"]]
        x, y = [i + 0.16 * (place - 2) for i, _ in found], [a["accuracy"] for _, a in found]
        spread = [
            [max(0.0, a["accuracy"] - a["ci"][0]) for _, a in found],
            [a["ci"][1] - a["accuracy"] for _, a in found],
        ]
        axes.bar(x, y, 0.15, color=colour, label=arm, yerr=spread, error_kw={"lw": 0.7, "alpha": 0.6})
    axes.set_xticks(range(len(names)), [textwrap.fill(ROWS[name].title, 20) for name in names], fontsize=8)
    axes.set(ylim=(0, 1.08), ylabel="accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(shown), fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    drawing.savefig(path, dpi=130)
    plt.close(drawing)


def courses(folder: Path, documents: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[Point]]]:
    """What was measured of a course, by its axis: each arm's points."""
    found: dict[str, dict[str, list[Point]]] = {}
    for name in sorted((n for n in documents if n.startswith("facts@")), key=lambda n: int(n.split("@")[1])):
        for arm, figures in documents[name]["arms"].items():
            if arm not in ARMS:
                continue
            line = found.setdefault(f"tokens handed over (n = {documents[name]['n']})", {}).setdefault(arm, [])
            line.append(Point(int(name.split("@")[1]), figures["accuracy"], *figures["ci"]))
    if (path := folder / f"{REPEATED}.json").exists():
        document = json.loads(path.read_text())
        found[f"hand-offs in a conversation (n = {document['n']})"] = {
            arm: [Point(turn, one["accuracy"], *one["ci"]) for turn, one in enumerate(figures, 1)]
            for arm, figures in document["turns"].items()
        }
    return found


def course_figure(found: dict[str, dict[str, list[Point]]], path: Path) -> None:
    """Private facts: accuracy along each axis, with intervals."""
    drawing, all_axes = plt.subplots(1, len(found), figsize=(5 * len(found), 3.2), layout="constrained", squeeze=False)
    for axes, (axis, arms) in zip(all_axes[0], found.items(), strict=True):
        x = sorted({p.x for points in arms.values() for p in points})
        for arm, points in arms.items():
            own = [p.x for p in points]
            axes.plot(own, [p.accuracy for p in points], "o-", markersize=4, color=ARMS[arm], label=arm)
            axes.fill_between(own, [p.low for p in points], [p.high for p in points], color=ARMS[arm], alpha=0.12, lw=0)
        if axis.startswith("tokens"):
            axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(value) for value in x], minor=False)
        axes.set(xlabel=axis, ylim=(-0.03, 1.05), ylabel="private facts, accuracy")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, ncols=len(arms), loc="upper center", bbox_to_anchor=(0.5, 1.16))
    drawing.savefig(path, dpi=130)
    plt.close(drawing)


def course_table(axis: str, arms: dict[str, list[Point]]) -> list[str]:
    places = sorted({p.x for points in arms.values() for p in points})
    rows: list[str] = []
    for arm, points in arms.items():
        cells = {p.x: f"{number(p.accuracy)} [{number(p.low)}, {number(p.high)}]" for p in points}
        rows.append(f"| {arm} | {' | '.join(cells.get(place, '') for place in places)} |")
    return [f"| {axis} | {' | '.join(map(str, places))} |", "|---" * (1 + len(places)) + "|", *rows, ""]


def comparison(document: dict[str, Any]) -> list[str]:
    """One line for every variant, and those of the arms that no bridge has a part in."""
    reports = document["reports"]
    heads = [f"{r['dataset']}, n = {r['n']}: {arm}" for r in reports for arm in ("bridge", "deranged")]
    names = " → ".join(Path(document["pair"][side]["id"]).name for side in ("teacher", "student"))
    lines = [
        names,
        "",
        f"| variant | mode | parameters | steps | {' | '.join(heads)} |",
        "|---" * (4 + len(heads)) + "|",
    ]
    for arm in (arm for arm in ARMS if arm in reports[0]["arms"]):
        cells = [f"{accuracy(r['arms'][arm])} |" for r in reports]
        lines.append(f"| no bridge: {arm} | | | | {' | '.join(cells)} |")
    for variant in document["variants"]:
        arms = [r["variants"][variant["name"]]["arms"] for r in reports]
        cells = [f"{accuracy(a['bridge'])} | {number(a['deranged']['accuracy'])}" for a in arms]
        size = f"{variant.get('parameters', 0) / 1e6:.1f} M"
        lines.append(f"| {variant['name']} | {variant['mode']} | {size} | {variant['steps']} | {' | '.join(cells)} |")
    return lines


def accuracy(arm: dict[str, Any]) -> str:
    return f"{number(arm['accuracy'])} [{', '.join(map(number, arm['ci']))}]"


def write(parts: Sequence[str]) -> None:
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text("\n".join([before.rstrip("\n"), "", BEGIN, *parts, END]) + after)


def main() -> None:
    parts: list[str] = []
    for path in sorted(COMPARISONS.glob("*.json")):
        parts += [f"### comparison {path.stem}", "", *comparison(json.loads(path.read_text())), ""]
    folders = [path for path in HERE.iterdir() if path.is_dir() and any(path.glob("*.json"))]
    for folder in sorted(path for path in folders if path != COMPARISONS):
        documents = read(folder)
        figure(documents, folder / "accuracy.png")
        parts += [
            *describe(folder, documents),
            *table(folder.name, documents),
            "",
            f"![accuracy]({folder.name}/accuracy.png)",
            "",
        ]
        if found := courses(folder, documents):
            course_figure(found, folder / "curves.png")
            parts += [line for axis, arms in found.items() for line in course_table(axis, arms)]
            parts += [f"![accuracy along the way]({folder.name}/curves.png)", ""]
    write(parts)


if __name__ == "__main__":
    main()
