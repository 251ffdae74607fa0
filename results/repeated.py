"""Hand-offs one after another: `python results/repeated.py --bridge RUN --teacher DIR --student DIR`, JSON on stdout.

Each conversation has so many turns, and each turn tells private facts of its own and asks for one of them: turn t is
the t-th hand-off of a conversation that grows. Beside it the same turns read by the student itself. Right is an answer
that holds the value; the facts' names, templates and values were in no training.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from helmas_core.bridges.artefact import load_bridge
from helmas_core.conversation import Conversation
from helmas_core.data.item import Item
from helmas_core.data.tasks import get_task, load_items
from helmas_core.evaluation.statistics import wilson
from helmas_core.layering import load_config
from helmas_core.models.hardware import resolve_hardware
from helmas_core.models.loading import load_pair

TASK = get_task("channel:facts")
WISH = "Answer with the value alone."


def held(item: Item, answer: str) -> bool:
    return item.answer.casefold() in answer.casefold()


def talk(conversation: Conversation, items: list[Item], bridged: bool) -> list[bool]:
    """Which turns were answered rightly."""
    conversation.reset()
    conversation.bridged = bridged
    return [held(one, conversation.ask(f"{one.private}\n{one.question} {WISH}").text) for one in items]


def figures(rights: list[list[bool]]) -> list[dict[str, Any]]:
    """Accuracy and interval by turn."""
    counts = [sum(turn) for turn in zip(*rights, strict=True)]
    return [{"accuracy": round(c / len(rights), 4), "ci": list(wilson(c, len(rights)))} for c in counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("--bridge", "--teacher", "--student"):
        parser.add_argument(name, required=True, type=Path)
    parser.add_argument("--conversations", type=int, default=40)
    parser.add_argument("--turns", type=int, default=8)
    given = parser.parse_args()
    sets = [f"pair.teacher={given.teacher}", f"pair.student={given.student}", "data.handoff=prompt"]
    config = load_config(["qwen2.5-cpu"], [*sets, "eval.baseline_tokens=16"])
    pair = load_pair(config, resolve_hardware(config))
    conversation = Conversation(config, pair, load_bridge(given.bridge / "bridge.safetensors", pair))
    items = load_items(TASK, "test", given.conversations * given.turns, config.train.seed)
    random.Random(config.train.seed).shuffle(items)
    rights: dict[str, list[list[bool]]] = {"text": [], "bridge": []}
    for index in range(given.conversations):
        turns = items[index * given.turns : (index + 1) * given.turns]
        for name, found in rights.items():
            found.append(talk(conversation, turns, name == "bridge"))
        print(index + 1, {name: sum(map(sum, found)) for name, found in rights.items()}, file=sys.stderr, flush=True)
    arms = {name: figures(found) for name, found in rights.items()}
    print(json.dumps({"n": given.conversations, "seed": config.train.seed, "turns": arms}, indent=1))


if __name__ == "__main__":
    main()
