"""One line of plain words about a report: what travelled, how sure that is, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helmas_core.evaluation.guards import inexact

MARGIN = 0.05  # accuracy that may be lost against text and still be called as good
_SAME = 1.1  # times that differ by less are called the same


def verdict(document: Mapping[str, Any], minimum_n: int, allow_inexact: bool = False) -> dict[str, Any] | None:
    """{"text", "level", "content_effect": the bridge-deranged contrast or null}; None for a report without a bridge.

    level      the bridge
    inexact    cannot be judged: the student's own cache, injected, does not do what the text does
    too_few    cannot be judged: under `minimum_n` items
    unknown    was not run against `deranged`
    useless    carries no content: the interval of bridge - deranged includes 0 or lies below it
    partial    carries content, and the text carries more (or it is open whether it does)
    as_text    carries content and loses at most 5 points against the text, by its interval
    """
    if "bridge" not in document["arms"]:
        return None
    effect = document["contrasts"].get("bridge-deranged")
    level = _level(document, effect, minimum_n, allow_inexact)
    return {"text": _text(level, document, effect, minimum_n), "level": level, "content_effect": effect}


def _level(document: Mapping[str, Any], effect: Mapping[str, Any] | None, least: int, allow_inexact: bool) -> str:
    if inexact(document) and not allow_inexact:
        return "inexact"
    if document["n"] < least:
        return "too_few"
    if effect is None:
        return "unknown"
    if effect["ci"][0] <= 0:
        return "useless"
    text = document["contrasts"].get("bridge-text")
    return "as_text" if text and text["ci"][0] >= -MARGIN else "partial"


def _text(level: str, document: Mapping[str, Any], effect: Mapping[str, Any] | None, least: int) -> str:
    if level == "inexact":
        return f"no verdict: {inexact(document)}"
    if level == "too_few":
        n = document["n"]
        return f"no verdict: {n} {'item is' if n == 1 else 'items are'} too few, at least {least} are needed"
    if effect is None:
        return "no verdict: the deranged arm was not run, so nothing tells content from a mere prefix"
    figures = f"content effect {_signed(effect['delta'])} {_interval(effect['ci'])}"
    if level == "useless":
        parts = [_useless(effect, figures), _beside_student(document)]
    else:
        parts = [figures, _beside_text(document), _not_above_student(document)]
    return "; ".join(filter(None, [*parts, *_costs(document)]))


def _useless(effect: Mapping[str, Any], figures: str) -> str:
    if effect["ci"][1] < 0:
        return f"useless: another item's cache serves better than its own ({figures})"
    return f"useless: it does no better with its own cache than with another item's ({figures})"


def _beside_text(document: Mapping[str, Any]) -> str:
    found = document["contrasts"].get("bridge-text")
    if not found:
        return ""
    low, high = found["ci"]
    if low > 0:
        return f"better than text by {_plain(found['delta'])}"
    if low >= -MARGIN:
        return "as good as text"
    if high < 0:
        return f"worse than text by {_plain(-found['delta'])}"
    return f"not told apart from text ({_signed(found['delta'])} {_interval(found['ci'])})"


def _not_above_student(document: Mapping[str, Any]) -> str:
    found = document["contrasts"].get("bridge-student")
    if not found or found["ci"][0] > 0:
        return ""
    return f"yet no better than the student alone ({_signed(found['delta'])} {_interval(found['ci'])})"


def _beside_student(document: Mapping[str, Any]) -> str:
    """A useless bridge may still score: what it adds then is a prompt, not content."""
    found = document["contrasts"].get("bridge-student")
    if not found or found["ci"][0] <= 0:
        return ""
    return f"what it adds to the student alone, {_signed(found['delta'])}, is what any fixed prefix could add"


def _costs(document: Mapping[str, Any]) -> list[str]:
    costs = document.get("costs") or {}
    ours = costs.get("bridge", {})
    if not ours.get("cold"):
        return ["times not measured"]
    return [*_speeds(costs), _beside_teacher(document, costs)]


def _speeds(costs: Mapping[str, Any]) -> list[str]:
    """Against the text arm, cold, and warm where that is another story."""
    told: list[str] = []
    for how in ("cold", "warm"):
        ours, theirs = (_median(costs.get(arm), how) for arm in ("bridge", "text"))
        if ours and theirs:
            told.append(_faster(theirs / ours, how))
    return told


def _faster(ratio: float, how: str) -> str:
    if 1 / _SAME < ratio < _SAME:
        return f"as fast as text {how}"
    return f"{ratio:.1f}x faster than text {how}" if ratio > 1 else f"{1 / ratio:.1f}x slower than text {how}"


def _beside_teacher(document: Mapping[str, Any], costs: Mapping[str, Any]) -> str:
    found = document["contrasts"].get("bridge-teacher")
    if not found:
        return ""
    low, high = found["ci"]
    by = _plain(abs(found["delta"]))
    who = f"better by {by}" if high < 0 else f"worse by {by}" if low > 0 else "no better and no worse"
    ours, theirs = (_median(costs.get(arm), "cold") for arm in ("bridge", "teacher"))
    at = f" at {theirs / ours:.1f}x the time" if ours and theirs else ""
    return f"the teacher alone is {who}{at}"


def _median(costs: Mapping[str, Any] | None, how: str) -> float | None:
    return ((costs or {}).get(how) or {}).get("p50")


def _plain(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("0.", ".", 1)


def _interval(ends: Any) -> str:
    low, high = (f"{end:.2f}".replace("0.", ".", 1) for end in ends)
    return f"[{low}, {high}]"
