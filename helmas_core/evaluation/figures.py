"""Figures as PNG: heat maps of blend weights, accuracy bars with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

_COLOURS = {"bridge": "#2a78d6", "deranged": "#c94f4f"}
_GREY = "#8a8f98"


def heat_map(matrix: Sequence[Sequence[float]], title: str, x: str, y: str, path: Path) -> None:
    """`matrix` [rows, columns] as a heat map in `path`."""
    figure, axes = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
    image = axes.imshow(matrix, aspect="auto", cmap="viridis")
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes)
    _save(figure, path)


def accuracy_bars(report: Mapping[str, Any], path: Path) -> None:
    """One bar per arm with its 95 % interval."""
    arms = report["arms"]
    names, values = list(arms), [arm["accuracy"] for arm in arms.values()]
    low = [max(0.0, v - arm["ci"][0]) for v, arm in zip(values, arms.values(), strict=True)]
    high = [max(0.0, arm["ci"][1] - v) for v, arm in zip(values, arms.values(), strict=True)]
    figure, axes = plt.subplots(figsize=(1.1 + 0.9 * len(names), 3.4), layout="constrained")
    bars = axes.bar(names, values, yerr=[low, high], capsize=3, color=[_COLOURS.get(n, _GREY) for n in names])
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set(ylim=(0, 1.12), ylabel="accuracy", title=f"{report['dataset']}, {report['split']}, n = {report['n']}")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def save_figures(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """The figures of an eval document, or of one that holds several reports."""
    made = []
    for report in document.get("reports", [document]):
        path = folder / f"accuracy-{Path(str(report['dataset'])).stem.replace(':', '-')}.png"
        accuracy_bars(report, path)
        made.append(path)
    return made


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
