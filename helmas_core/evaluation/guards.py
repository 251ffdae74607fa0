"""What must hold before a report is believed: injection is exact, answers are readable, the hand-off does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helmas_core.errors import HelmasError

THRESHOLD = 0.1  # share of an arm's items from which on it is warned of
_READERS = ("teacher", "text", "bridge", "own")  # the student alone often has nothing to say


class InexactError(HelmasError):
    """The student answers differently when it goes on from its own cache: no other arm can be trusted."""


def inexact(document: Mapping[str, Any]) -> str:
    """What to tell of a report whose own cache did not do what the text does; "" where all is well."""
    found = document.get("exactness")
    if not found or not found["differ"]:
        return ""
    return (
        f"own and text differ on {len(found['differ'])} of {found['compared']} items, first {found['differ'][0]}: "
        "injection is not exact on this machine, so no arm that injects a cache can be trusted"
    )


def require_exact(documents: Sequence[Mapping[str, Any]]) -> None:
    """InexactError for the first report whose injection is not exact."""
    for document in documents:
        if what := inexact(document):
            fix = (
                "try -s pair.attention=eager, -s pair.dtype=fp32 or --batch 1; "
                "-s eval.allow_inexact=true goes on with a warning"
            )
            raise InexactError(what, where=str(document["dataset"]), fix=fix)


def warnings_of(document: Mapping[str, Any]) -> list[str]:
    """A line for every rate in a report that puts its figures in doubt."""
    found = [inexact(document)]
    longer = "raise the task's max_gen_toks" if "harness" in document else "raise eval.max_new_tokens"
    for name in _READERS:
        arm = document["arms"].get(name, {})
        for key, what, fix in (
            ("unparsed", "hold no answer that can be read", "look at what they say"),
            ("truncated", "were cut off", longer),
        ):
            if arm.get(key, 0) > THRESHOLD:
                found.append(f"{arm[key]:.0%} of the {name} arm's answers {what}; {fix}")
    leak = (document.get("reasoning") or {}).get("names_answer", 0)
    if leak > THRESHOLD:
        found.append(
            f"the reasoning handed over names the answer in {leak:.0%} of the items: they show that an answer travels, "
            "not that thinking does; data.cut_last_step = true takes the last step off"
        )
    return [line for line in found if line]
