"""Commands in this process, over a fake core: these tests load no torch and no model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helmas_cli.app import main
from tests.cli.fakes import Cli, Core, Echo, Result


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`cli("train", "-p", "lab")` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("HELMAS_DEBUG", "HELMAS_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*argv: str | Path) -> Result:
        code = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    """Replace the modules with torch in them where the commands import them."""
    fake = Core()
    modules = {
        "models.hardware": ["resolve_hardware"],
        "models.loading": ["load_pair"],
        "models.doctor": ["diagnose"],
        "bridges.registry": ["check_method"],
        "bridges.artefact": ["read_metadata", "load_bridge"],
        "training.session": ["train_bridge"],
        "evaluation.evaluate": ["evaluate"],
        "evaluation.baseline": ["baseline"],
        "evaluation.inspect": ["inspect_cache"],
        "evaluation.harness_tasks": ["choose_tasks", "evaluate_task"],
        "report.write": ["write_report"],
        "report.inspection": ["write_page", "write_figures"],
    }
    for name, members in modules.items():
        _place(monkeypatch, name, **{member: getattr(fake, member) for member in members})
    _place(monkeypatch, "conversation", Conversation=Echo)
    _place(monkeypatch, "evaluation.diagnose", diagnose=fake.diagnose_bridge)
    return fake


@pytest.fixture
def comparing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of a comparison, one that learns nothing; returns what it was asked to compare."""
    asked: list[str] = []

    class Comparison:
        def __init__(self, *_: Any) -> None: ...

        def go(self, configs: Mapping[str, Any]) -> dict[str, Any]:
            asked.extend(configs)
            return {"schema": 1, "command": "compare", "variants": [], "reports": []}

    _place(
        monkeypatch,
        "comparison.run",
        Comparison=Comparison,
        learnable=lambda config: config,
        check_configs=lambda configs: None,
    )
    return asked


def _place(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(f"helmas_core.{name}")
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def bridge(tmp_path: Path) -> Path:
    """A run folder with a bridge file; its contents are the fake core's business."""
    folder = tmp_path / "runs" / "made"
    folder.mkdir(parents=True)
    (folder / "bridge.safetensors").write_bytes(b"bridge")
    return folder
