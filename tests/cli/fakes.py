"""A core that answers at once, in place of the modules that need torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helmas_core.config import BridgeSection, Config, TrainConfig
from helmas_core.errors import ConfigError, PairError
from helmas_core.progress import Progress
from helmas_core.runs import Run
from helmas_core.transcript import Settings, read_transcript


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


def report(dataset: str, arms: tuple[str, ...] = ("student", "text", "bridge", "deranged")) -> dict[str, Any]:
    scores = {"student": 0.25, "teacher": 0.99, "text": 0.95, "bridge": 0.9, "deranged": 0.2, "own": 0.95}
    arm = {"ci": [0.1, 0.99], "n": 40, "unparsed": 0, "truncated": 1}
    times = {"seconds_p50": 0.1, "seconds_p95": 0.2, "tokens_per_second": 1234.5}
    return {
        "schema": 1,
        "command": "eval",
        "dataset": dataset,
        "split": "test",
        "n": 40,
        "pair": {},
        "bridge": {},
        "arms": {name: {"accuracy": scores[name], **arm, **times} for name in arms},
        "contrasts": {"bridge-deranged": {"delta": 0.7, "ci": [0.5, 0.8], "p": float("nan")}},
        "manifest": {},
    }


@dataclass
class Core:
    """A core that answers at once; tests change what it does and read what it was asked."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    hook: Callable[[Config, Run, Progress], None] | None = None
    ok: bool = True
    reports: Callable[..., dict[str, Any]] = report

    def resolve_hardware(self, config: Config) -> Any:
        return SimpleNamespace(reasons=("device cpu",))

    def load_pair(self, config: Config, hardware: Any, notify: Callable[[str], None]) -> Any:
        self.calls.append(("load_pair", config))
        if config.pair.teacher == "gone":
            raise PairError("not found", where="pair.teacher", fix="check the name")
        return SimpleNamespace(describe=lambda: {"teacher": config.pair.teacher})

    def check_method(self, section: BridgeSection, train: TrainConfig, handoff: str) -> None:
        if "layer_blnding" in section.options:
            raise ConfigError("unknown key", where="bridge.layer_blnding", fix='did you mean "layer_blending"?')

    def read_metadata(self, path: Path) -> dict[str, Any]:
        return {"config": self.metadata, "training": self.training}

    def load_bridge(self, path: Path, pair: Any) -> str:
        return f"bridge of {path}"

    def train_bridge(self, config: Config, pair: Any, run: Run, progress: Progress, resume: bool) -> dict[str, Any]:
        self.calls.append(("train", (config, resume)))
        if self.hook:
            self.hook(config, run, progress)
        progress.start("train", 2)
        progress.update(2, loss=0.5, tokens_per_second=1000.0)
        progress.finish()
        run.log({"step": 2, "loss": 0.5})
        run.bridge.write_bytes(b"bridge")
        facts = {"run": str(run.path), "bridge": str(run.bridge), "parameters": 7, "steps": 2, "seconds": 1.0}
        return {"schema": 1, **facts, "losses": {"ce": 0.5}, "eval": report("relay")}

    def evaluate(self, config: Config, pair: Any, bridge: Any, progress: Progress) -> dict[str, Any]:
        self.calls.append(("evaluate", config))
        return self.reports(config.data.dataset, config.eval.arms) | {
            "items": [{"task": config.data.dataset, "id": "0"}]
        }

    def choose_tasks(self, names: str) -> list[str]:
        self.calls.append(("choose", names))
        return names.split(",")

    def evaluate_task(self, config: Config, pair: Any, bridge: Any, chosen: str, shots: Any, progress: Any) -> Any:
        self.calls.append(("evaluate_task", (config, chosen, shots)))
        results = {arm: {chosen: {"acc,none": 0.25, "f1,none": 0.5}} for arm in config.eval.arms}
        return report(chosen, config.eval.arms) | {"items": [], "harness": {"results": results}}

    def baseline(self, config: Config, pair: Any, progress: Progress) -> dict[str, Any]:
        self.calls.append(("baseline", config))
        return report(config.data.dataset, ("student", "teacher")) | {"bridge": None, "contrasts": {}}

    def inspect_cache(
        self, config: Config, pair: Any, bridge: Any, text: str | None, item: str | None, against: Any
    ) -> dict[str, Any]:
        self.calls.append(("inspect", (bridge, text, item, against)))
        numbers = {"k_norm": 1.0, "v_norm": 2.0, "k_norm_own": 1.1, "v_norm_own": 2.1, "k_rank": 9.0, "v_rank": 8.0}
        cosines = {"k_cosine": 0.9, "v_cosine": 0.8, "attention_cosine": 0.95}
        blend = {"k": [[0.9, 0.1], [0.2, 0.8]], "v": [[1.0, 0.0], [0.0, 1.0]]} if bridge else None
        head = {"schema": 1, "command": "inspect-cache", "pair": {}, "bridge": {}, "tokens": 12}
        residual = {"teacher": 1e-6, "student": 2e-6}
        return {**head, "rope_residual": residual, "layers": [{"layer": 0, **numbers, **cosines}], "blend": blend}

    def diagnose_bridge(self, config: Config, pair: Any, bridge: Any, progress: Progress) -> dict[str, Any]:
        self.calls.append(("diagnose", config))
        return {"n": 1, "layers": [], "heads": [], "mass": [], "blend": None, "gate": None}

    def write_report(self, run: Run, document: Any, evidence: Any, trained: Run | None = None) -> list[Path]:
        self.calls.append(("report", (evidence, trained)))
        return [run.write_report(document)]

    def write_page(self, found: Any, path: Path, against: str) -> Path:
        path.write_text(against)
        return path

    def write_figures(self, found: Any, path: Path) -> list[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = [path.with_name(f"{path.stem}-{name}.png") for name in found["blend"] or {}]
        for one in made:
            one.write_bytes(b"png")
        return made

    def diagnose(self, config: Config) -> dict[str, Any]:
        problem = {"what": "two tokenizers", "where": "pair", "fix": "take another"}
        facts = {"geometry": {"teacher": {"layers": 36}}, "bridge_parameters": 3672032, "needed_gib": {"gpu": 20.5}}
        return {"schema": 1, "ok": self.ok, "problems": [] if self.ok else [problem], **facts}


class Echo:
    """A conversation that repeats what it is told."""

    def __init__(self, config: Any = None, pair: Any = None, bridge: Any = None, notify: Any = None) -> None:
        self.bridged, self.heard = bridge is not None, list[str]()
        self.settings, self.system = Settings(), ""

    def ask(self, text: str, on_token: Callable[[str], None]) -> Any:
        self.heard.append(text)
        for piece in (text.upper(), "!"):
            on_token(piece)
        figures: dict[str, Any] = {"seconds": {"prefill": 0.1, "generate": 0.2}, "tokens": 2, "new": 3, "kept": 4}
        return SimpleNamespace(text=text.upper() + "!", stopped=False, **figures)

    def compare(self) -> dict[str, str]:
        return {"student": "s", "bridge": "b", "teacher": "t"} if self.heard else {}

    def inspect(self) -> dict[str, Any]:
        return {"layers": [{"layer": 0, "k_norm": 1.5, "k_cosine": None}]}

    def set(self, key: str, value: str) -> None:
        self.settings = self.settings.changed(key, value)

    def bytes(self) -> dict[str, int]:
        return {"teacher": 2**20, "bridge": 2**19}

    def save(self, path: Path) -> None:
        path.write_text("\n".join(self.heard))

    def load(self, path: Path) -> None:
        self.heard = [turn.question for turn in read_transcript(path).turns]

    def undo(self) -> str | None:
        return self.heard.pop() if self.heard else None

    def reset(self) -> None:
        self.heard.clear()
