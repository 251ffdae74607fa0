"""A run as `helmas train` and `helmas eval` leave it, small and full of what is nobody's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helmas_core.bridges.artefact import describe, save_bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import Config
from helmas_core.json_files import write_json
from helmas_core.models.pair import Pair
from tests.cli.fakes import report

HOME = "/home/ada/secret-lab"
PRIVATE = (b"/home", b"/ada", b"secret", b"hunter2", b"Who is Kara")


def make_run(folder: Path, pair: Pair, dataset: str = f"jsonl:{HOME}/mine.jsonl", **changes: Any) -> Path:
    """`folder` as a run on two models of this machine; `changes` go over the report."""
    data = {"dataset": f"gsm8k,{dataset}", "mix": {f"text:{HOME}/notes": 1.0, "relay": 2.0}, "data_dir": HOME}
    models = {"teacher": f"{HOME}/Qwen2.5-1.5B", "student": "Qwen/Qwen2.5-0.5B"}
    train = {"store": f"{HOME}/store", "init": f"{HOME}/old.safetensors"}
    config = Config.model_validate({"pair": models, "data": data, "train": train})
    training = {"dataset": f"gsm8k,{dataset}", "split": "train", "items": 160, "steps": 20, "seed": 3, "stages": []}
    document = describe(config, pair, {**training, "mix": {f"text:{HOME}/notes": 1.0}, "hashes": "0123456789abcdef"})
    for side, name in models.items():
        document["pair"][side]["id"] = name
    save_bridge(folder / "bridge.safetensors", build_bridge(config.bridge, pair), document)
    manifest = {"status": "done", "argv": ["--token", "hunter2", HOME], "seed": 3, "git": {"revision": "secret"}}
    files = {
        "config.json": config.model_dump(mode="json"),
        "manifest.json": manifest,
        "report.json": {**a_report(document, dataset), **changes},
    }
    for name, value in files.items():
        write_json(folder / name, value)
    (folder / "items.jsonl").write_text(json.dumps({"task": dataset, "id": "mine-0", "question": "Who is Kara"}) + "\n")
    (folder / "figures").mkdir()
    (folder / "figures" / "accuracy-secret.png").write_bytes(b"drawn before")
    return folder


def a_report(document: dict[str, Any], dataset: str) -> dict[str, Any]:
    """What an evaluation of that bridge says, with more in it than anyone should see."""
    manifest = {"seed": 0, "batch": 8, "argv": ["hunter2"], "git": {"revision": "secret"}, "versions": {"helmas": "1"}}
    own = {"pair": document["pair"], "bridge": {"method": "helmas", "mode": "replace", "parameters": 1234567}}
    told = {"warnings": [f"the bridge was trained on items of {dataset}"], "overlap": {"trained_on": 160, "items": []}}
    exact = {"compared": 40, "differ": [], "ties": ["mine-3"]}
    verdict = {"text": "content effect +.70 [.50, .80]; less than text", "level": "partial"}
    items = [{"question": "Who is Kara"}]
    return report(dataset) | own | told | {"manifest": manifest, "exactness": exact, "verdict": verdict, "items": items}
