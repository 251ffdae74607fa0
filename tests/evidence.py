"""An evaluation and all that lies beside it, made up for tests of what shows it."""

from __future__ import annotations

from typing import Any

from helmas_core.report.document import Evidence

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(2)> \x1b[31mred\x07 \u202etxt $\\frac{ `|` \"'"
_ARMS = {"student": 0.2, "text": 0.9, "bridge": 0.9, "deranged": 0.1, "teacher": 1.0}
_SHARE = {"ci": [0.7, 0.99], "n": 10, "unparsed": 0.0, "truncated": 0.1}

SAMPLE: dict[str, Any] = {
    "schema": 1,
    "command": "eval",
    "dataset": "relay",
    "split": "test",
    "n": 10,
    "pair": {"teacher": {"id": "T", "layers": 4, "kv_heads": 2, "head_dim": 8, "parameters": 1000}},
    "bridge": {"method": "helmas", "mode": "replace", "parameters": 12345},
    "arms": {
        name: {"accuracy": value, **_SHARE, "seconds_p50": 0.1 + value, "seconds_p95": 1.5, "tokens_per_second": 9.0}
        for name, value in _ARMS.items()
    },
    "contrasts": {"bridge-deranged": {"delta": 0.8, "ci": [0.5, 1.0], "p": 0.0001}},
    "manifest": {"seed": 0, "batch": 8, "versions": {"torch": "2"}},
}


def items(text: str, count: int = 10) -> list[dict[str, Any]]:
    """Every third bridge answer is wrong and says something else than `text` did."""
    return [
        {
            "task": "relay",
            "id": f"{index}-{text}",
            "category": ["even", text][index % 2],
            "question": f"question {index} {text}",
            "answer": f"said {index}",
            "private": text,
            "cue": text,
            "arms": {arm: _answer(arm, index, text) for arm in _ARMS},
        }
        for index in range(count)
    ]


def _answer(arm: str, index: int, text: str) -> dict[str, Any]:
    right = arm in ("text", "teacher") or (arm == "bridge" and index % 3 > 0)
    return {"text": f"said {index}" if right else f"{arm} {text}", "right": right}


def diagnostics() -> dict[str, Any]:
    lines = ("k_cosine", "v_cosine", "attention_cosine", "k_rms_ratio", "v_rms_ratio", "k_rank", "v_rank", "mass")
    rows = [{"layer": layer, **dict.fromkeys(lines, 0.5 + 0.1 * layer)} for layer in range(3)]
    matrices = {name: {side: [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]] for side in "kv"} for name in ("blend", "gate")}
    return {"n": 2, "layers": rows, "heads": [], "mass": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], **matrices}


def curves() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"step": i, "event": "train", "stage": "a", "loss": 1.0 / i} for i in range(1, 4)]
    return [*rows, {"step": 3, "event": "validation", "n": 5, "bridge": 0.8, "student": 0.1, "seconds": 1.0}]


def evidence(text: str) -> Evidence:
    """With `text` wherever a file or a model could have put it."""
    report = {**SAMPLE, "dataset": f"jsonl:{text}", "warnings": [text], "verdict": {"text": f"verdict: {text}"}}
    return Evidence(report, items(text), diagnostics())


def found() -> dict[str, Any]:
    """An `inspect-cache --json` document of two tokens, two layers and one head, compared with another item."""
    head = {
        "head": 0,
        "k_cosine": 0.9,
        "v_cosine": 0.8,
        "k_rms_ratio": 1.0,
        "v_rms_ratio": 1.1,
        "attention_cosine": 0.7,
    }
    layers = [{"layer": layer, **{k: v for k, v in head.items() if k != "head"}, "heads": [head]} for layer in range(2)]
    side = [{"layer": layer, "k_norm": 1.0, "mass": 0.4, "query_heads": [0.3, 0.5], "heads": []} for layer in range(2)]
    near = [{"position": 1, "token": "ra", "cosine": 0.9}]
    place = {"token": "<b>Ka</b>", "mass": 0.3, "nearest": near, "lens": [["a"], ["b"]], "lens_own": [["a"], ["b"]]}
    names = ("teacher", "own", "bridged")
    return {
        "schema": 1,
        "command": "inspect-cache",
        "pair": SAMPLE["pair"],
        "bridge": SAMPLE["bridge"],
        "cache": "bridged",
        "item": "7",
        "text": "<b>Ka</b>ra",
        "query": "where?",
        "tokens": 2,
        "tokens_read": ["<b>Ka</b>", "ra"],
        "rope_residual": {"teacher": 1e-7, "student": 1e-7},
        "layers": layers,
        "sides": dict.fromkeys(names, side),
        "token_mass": {name: [0.3, 0.1] for name in names},
        "positions": [{"position": 0, **place}],
        "notes": [],
        "against": {"item": "9", "tokens": 2, "layers": layers},
        "blend": None,
        "gate": None,
    }
