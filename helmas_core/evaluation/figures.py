"""Figures, drawn once: as PNG for files, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from helmas_core.files import replacing
from helmas_core.plain import printable

# The names are those of the page's custom properties; no two colours are alike, so that SVG can be told which is which.
ROLES = {
    "ink": "#24292e",
    "line": "#d5dae1",
    "student": "#9a6fb0",
    "teacher": "#3f8f5f",
    "text": "#b8860f",
    "bridge": "#2a78d6",
    "deranged": "#c94f4f",
    "own": "#6f7f8f",
    "other": "#8a8f98",
}
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": ROLES["ink"],
    "axes.edgecolor": ROLES["line"],
    "axes.labelcolor": ROLES["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": ROLES["ink"],
    "ytick.color": ROLES["ink"],
    "grid.color": ROLES["line"],
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,  # names of data sets and categories are text, whatever signs they hold
    "svg.fonttype": "none",
    "svg.hashsalt": "helmas",
}
_LOOSE = '<style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style>'  # would style the whole page
P = ParamSpec("P")
R = TypeVar("R")
Matrix = Sequence[Sequence[float]]
WIDTH = 5.2  # inches: readable when a phone shrinks it
_LONGEST = 80  # characters of a data set's name in a file's
_LINES = 12  # losses in one figure


def colour(name: str) -> str:
    return ROLES.get(name, ROLES["other"])


def styled() -> AbstractContextManager[None]:
    """What has to be around all drawing and saving: matplotlib reads its settings whenever it makes a text."""
    return matplotlib.rc_context(_STYLE)


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with styled():
            return draw(*args, **kwargs)

    return drawn


def canvas(height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


@_styled
def matrix_figure(matrix: Matrix, title: str, x: str, y: str, most: float | None = None) -> Figure:
    """`matrix` [rows, columns] as a heat map; brighter is more, up to `most`."""
    figure, axes = canvas(min(6.0, 1.6 + 0.16 * max(8, len(matrix))))
    image = axes.imshow(
        matrix, aspect="auto", cmap="viridis", vmin=0 if most else None, vmax=most, interpolation="none"
    )
    axes.set(title=title, xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes)
    return figure


@_styled
def accuracy_figure(report: Mapping[str, Any]) -> Figure:
    """One bar per arm with its 95 % interval; the first arm on top."""
    arms = report["arms"]
    figure, axes = canvas(1.1 + 0.3 * len(arms))
    names, values = list(arms), [arm["accuracy"] for arm in arms.values()]
    axes.barh(names, values, xerr=_spread(arms.values()), capsize=3, ecolor=ROLES["ink"], color=[*map(colour, names)])
    for place, (value, arm) in enumerate(zip(values, arms.values(), strict=True)):
        axes.text(max(value, arm["ci"][1]) + 0.02, place, f"{value:.2f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.14), xlabel="accuracy", title=_title(report))
    return figure


@_styled
def comparison_figure(report: Mapping[str, Any]) -> Figure:
    """One bar per variant: its bridge with the 95 % interval, `deranged` as a dot; other arms as lines."""
    rows = {shortened(name, 24): row["arms"] for name, row in report["variants"].items()}
    figure, axes = canvas(1.3 + 0.3 * len(rows))
    bridges = [arms["bridge"] for arms in rows.values()]
    values = [arm["accuracy"] for arm in bridges]
    axes.barh(list(rows), values, xerr=_spread(bridges), capsize=3, ecolor=ROLES["ink"], color=colour("bridge"))
    wrong = {name: arms["deranged"]["accuracy"] for name, arms in rows.items() if "deranged" in arms}
    axes.plot(list(wrong.values()), list(wrong), "o", color=colour("deranged"), label="deranged")
    for name, arm in report["arms"].items():
        axes.axvline(arm["accuracy"], color=colour(name), linestyle="--", label=name)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel="accuracy of the bridge", title=_title(report))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _title(report: Mapping[str, Any]) -> str:
    return printable(f"{report['dataset']}, {report['split']}, n = {report['n']}")


def _spread(arms: Any) -> list[list[float]]:
    """Distances from each accuracy to the ends of its interval, never negative."""
    rows = [(arm["accuracy"], *arm["ci"]) for arm in arms]
    return [[max(0.0, v - low) for v, low, _ in rows], [max(0.0, high - v) for v, _, high in rows]]


@_styled
def tradeoff_figure(report: Mapping[str, Any]) -> Figure | None:
    """Accuracy over seconds per item, both with what is known of their spread; None where nothing was timed."""
    arms = {name: arm for name, arm in report["arms"].items() if arm.get("seconds_p50")}
    if not arms:
        return None
    figure, axes = canvas()
    for (name, arm), low, high in zip(arms.items(), *_spread(arms.values()), strict=True):
        axes.errorbar(
            arm["seconds_p50"], arm["accuracy"], yerr=[[low], [high]], fmt="o", color=colour(name), label=name
        )
    axes.set(xscale="log", xlabel="seconds per item, median (log)", ylabel="accuracy", ylim=(-0.05, 1.08))
    _plain_log(axes.xaxis)
    axes.grid(alpha=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _plain_log(axis: Axis) -> None:
    """Numbers such as 0.02 at 1, 2 and 5 of each decade: powers of ten would be mathematics, which is off."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@_styled
def latency_figure(report: Mapping[str, Any]) -> Figure | None:
    """Median and 95th percentile of the seconds per item; None where nothing was timed."""
    arms = {name: arm for name, arm in report["arms"].items() if arm.get("seconds_p50")}
    if not arms:
        return None
    figure, axes = canvas(1.1 + 0.36 * len(arms))
    names, half = list(arms), [arm["seconds_p50"] for arm in arms.values()]
    axes.barh(names, half, color=[*map(colour, names)], height=0.6)
    worst = [arm.get("seconds_p95") or mid for arm, mid in zip(arms.values(), half, strict=True)]
    axes.plot(worst, names, "|", color=ROLES["ink"], markersize=12, label="95th percentile")
    axes.invert_yaxis()
    axes.set(xlabel="seconds per item, median")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def shortened(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


@_styled
def category_figure(rows: Sequence[tuple[str, Mapping[str, float]]], arms: Sequence[str]) -> Figure:
    """A line per category, a dot per arm, one below the other: rows of (category, {arm: accuracy})."""
    figure, axes = canvas(1.2 + 0.4 * len(rows))
    for index, arm in enumerate(arms):
        places = [row + 0.7 * ((index + 0.5) / len(arms) - 0.5) for row in range(len(rows))]
        values = [scores.get(arm, float("nan")) for _, scores in rows]
        axes.plot(values, places, "o", color=colour(arm), label=arm, markersize=5)
    axes.set_yticks(range(len(rows)), [shortened(printable(name)) for name, _ in rows])
    axes.set(xlabel="accuracy", xlim=(-0.04, 1.04), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.6)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return figure


@_styled
def layer_figure(layers: Sequence[Mapping[str, Any]], lines: Mapping[str, str], title: str, y: str) -> Figure | None:
    """A line per entry of `lines` {key: label} over the layers; own values are dashed. None where nothing is known."""
    known = [key for key in lines if all(isinstance(row.get(key), int | float) for row in layers)]
    if not known:
        return None
    figure, axes = canvas(2.8)
    for key in known:
        role = {"k": "bridge", "v": "deranged", "m": "bridge"}.get(key[0], "teacher")
        dashed = key.endswith("_own")
        values = [row[key] for row in layers]
        axes.plot(
            values,
            "--" if dashed else "o-",
            color=colour(role),
            markersize=4,
            label=lines[key],
            alpha=0.6 if dashed else 1,
        )
    axes.set(xlabel="student layer", ylabel=y, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.5)
    axes.legend()
    return figure


@_styled
def gate_figure(gates: Mapping[str, Matrix]) -> Figure:
    """Gates by layer, one violin for keys and one for values over the heads, and a dot for every head."""
    figure, axes = canvas()
    for place, (name, role) in enumerate((("k", "bridge"), ("v", "deranged"))):
        rows = [[float(value) for value in row] for row in gates[name]]
        at = [layer + 0.36 * (place - 0.5) for layer in range(len(rows))]
        if len(set(map(len, rows))) == 1 and len(rows[0]) > 1 and all(len(set(row)) > 1 for row in rows):
            for body in axes.violinplot(rows, at, widths=0.3, showextrema=False)["bodies"]:  # type: ignore[union-attr]
                body.set(facecolor=colour(role), alpha=0.35)
        x = [place for place, row in zip(at, rows, strict=True) for _ in row]
        axes.plot(
            x, [v for row in rows for v in row], ".", color=colour(role), label={"k": "keys", "v": "values"}[name]
        )
    axes.set(xlabel="student layer", ylabel="gate (1: all bridge)", ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


@_styled
def curve_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Learning curves of one run or several: every loss by step (log), and what validations scored below it."""
    scored = any(row.get("event") == "validation" for rows in runs.values() for row in rows)
    figure = Figure(figsize=(WIDTH, 2.7 * (1 + scored)), layout="constrained")
    axes = list(figure.subplots(1 + scored, 1, sharex=True, squeeze=False)[:, 0])
    cycle = [ROLES[name] for name in ("bridge", "deranged", "teacher", "text", "student", "own")]
    several = len(runs) > 1
    for index, (run, rows) in enumerate(runs.items()):
        prefix, shade = f"{printable(run)} " if several else "", cycle[index % len(cycle)]
        _losses(axes[0], rows, prefix, cycle, index if several else None)
        if scored:
            _validations(axes[1], rows, prefix, shade, several)
    axes[0].set(ylabel="loss", yscale="log")
    _plain_log(axes[0].yaxis)
    axes[-1].set(xlabel="step")
    for one in axes:
        one.grid(alpha=0.5)
        if one.has_data():
            one.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


_NO_LOSS = ("step", "event", "stage", "seconds", "learning_rate", "tokens_per_second", "n", "skipped")


def _losses(axes: Axes, rows: Sequence[Mapping[str, Any]], run: str, cycle: Sequence[str], alone: int | None) -> None:
    """All terms of one run, or only the total where runs are compared; dashed: the total on validation items."""
    train = [row for row in rows if row.get("event") == "train"]
    names = list(dict.fromkeys(name for row in train for name in row if name not in _NO_LOSS))
    shades = [cycle[(index if alone is None else alone) % len(cycle)] for index in range(_LINES)]
    for shade, name in zip(shades, names[:_LINES] if alone is None else ["loss"], strict=False):
        if points := _course(train, name):
            axes.plot(*zip(*points, strict=True), color=shade, label=f"{run}{shortened(printable(name))}")
    if points := _course([row for row in rows if row.get("event") == "validation"], "loss"):
        shown = {"color": shades[0], "marker": "o", "markersize": 3, "label": f"{run}loss, validation"}
        axes.plot(*zip(*points, strict=True), "--", **shown)


def _course(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) of what a logarithm can show."""
    return [(row["step"], row[name]) for row in rows if isinstance(row.get(name), float) and row[name] > 0]


def _validations(axes: Axes, rows: Sequence[Mapping[str, Any]], run: str, shade: str, several: bool) -> None:
    checks = [row for row in rows if row.get("event") == "validation"]
    for arm in [arm for arm in ROLES if any(arm in row for row in checks) and (not several or arm == "bridge")]:
        points = [(row["step"], row[arm]) for row in checks if isinstance(row.get(arm), int | float)]
        if points:
            shown: dict[str, Any] = {"color": shade if several else colour(arm), "label": f"{run}{arm}"}
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, **shown)
    axes.set(ylim=(-0.05, 1.08), ylabel="validation accuracy")


def file_stem(dataset: str) -> str:
    """A data set's name as part of a file's."""
    return re.sub(r"[^\w.@-]+", "-", Path(dataset).stem).strip("-.")[:_LONGEST] or "data"


def save(figure: Figure, path: Path) -> None:
    """As PNG on white, whole or not at all."""
    with replacing(path) as partial, styled():
        figure.savefig(partial, dpi=150)


def svg(figure: Figure, prefix: str) -> str:
    """As an SVG element: transparent, of the width it is given, in the page's colours. Ids start with `prefix`."""
    stream = io.StringIO()
    with styled():
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = re.sub(
        r"<metadata>.*?</metadata>", "", stream.getvalue()[stream.getvalue().index("<svg") :], flags=re.DOTALL
    )
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r'<svg \1 aria-hidden="true"', text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    text, prefix = text.replace(_LOOSE, ""), re.sub(r"[^\w-]", "-", prefix)
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', text))
    text = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    for name, shade in ROLES.items():
        text = text.replace(shade, f"var(--{name})")
    return re.sub(r"'DejaVu Sans'[^;\"]*(?=[;\"])", "system-ui, sans-serif", text)
