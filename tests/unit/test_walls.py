"""The walls of the house: who may import what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
ROOMS = ("models", "data", "handoff", "bridges", "training", "evaluation", "comparison")
CACHE_CLASSES = {"DynamicCache", "Cache", "StaticCache", "DynamicLayer", "EncoderDecoderCache"}


def _imports(path: Path) -> list[tuple[str, set[str], bool]]:
    """(module, names, at top level) of every import in a file."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found.append((node.module or "", {alias.name for alias in node.names}, id(node) in top))
        elif isinstance(node, ast.Import):
            found += [(alias.name, set(), id(node) in top) for alias in node.names]
    return found


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", _files("helmas_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_knows_no_terminal(path: Path) -> None:
    roots = {module.split(".")[0] for module, _, _ in _imports(path)}
    assert not roots & {"typer", "rich", "prompt_toolkit", "helmas_cli"}


@pytest.mark.parametrize("path", _files("helmas_cli"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_command_line_holds_no_tensor_code(path: Path) -> None:
    roots = {module.split(".")[0] for module, _, _ in _imports(path)}
    assert not roots & {"torch", "transformers", "safetensors", "numpy"}


def test_one_file_makes_transformers_caches() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in _files("helmas_core")
        for module, names, _ in _imports(path)
        if module.startswith("transformers") and names & CACHE_CLASSES
    }
    assert users == {"helmas_core/models/cache.py"}


def test_one_file_draws_on_the_terminal() -> None:
    users = {p.name for p in _files("helmas_cli") for module, _, _ in _imports(p) if module.split(".")[0] == "rich"}
    assert users == {"ui.py"}


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "helmas_core" / f"{name}.py"
        for name in (
            "errors",
            "config",
            "documents",
            "files",
            "foreign",
            "json_files",
            "layering",
            "lock",
            "plain",
            "progress",
            "provenance",
            "runs",
            "secrets",
            "sides",
            "tensors",
            "transcript",
            "validation",
        )
    ],
)
def test_configuration_needs_no_torch(path: Path) -> None:
    modules = {module for module, _, top in _imports(path) if top}
    assert not any(m.split(".")[0] in ("torch", "transformers", "datasets") for m in modules)
    assert not any(m.startswith(tuple(f"helmas_core.{room}" for room in ROOMS)) for m in modules)


@pytest.mark.parametrize("path", _files("helmas_core/report"), ids=lambda p: p.name)
def test_reports_need_no_torch(path: Path) -> None:
    """They show documents that any machine may have written."""
    modules = {module for module, _, _ in _imports(path)}
    assert not any(m.split(".")[0] in ("torch", "transformers", "datasets") for m in modules)
    rooms = {m.split(".")[1] for m in modules if m.startswith("helmas_core.")} & set(ROOMS)
    assert rooms <= {"evaluation"} and all(m != "helmas_core.evaluation.inspect" for m in modules)


@pytest.mark.parametrize("path", _files("helmas_core/sharing"), ids=lambda p: p.name)
def test_sharing_needs_no_torch_to_start(path: Path) -> None:
    """Bridges are opened, with torch, when one is packed or has arrived."""
    modules = {module for module, _, top in _imports(path) if top}
    assert not any(m.split(".")[0] in ("torch", "transformers", "datasets", "safetensors") for m in modules)
    assert not any(m.startswith("helmas_core.bridges") for m in modules)


def test_one_file_asks_the_hub_for_bridges() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in [*_files("helmas_core"), *_files("helmas_cli")]
        for module, names, _ in _imports(path)
        if module.startswith("huggingface_hub") and "HfApi" in names
    }
    assert users == {"helmas_core/sharing/hub.py"}


def test_nothing_is_pickled() -> None:
    for path in [*_files("helmas_core"), *_files("helmas_cli")]:
        text = path.read_text()
        assert "torch.load" not in text and "torch.save" not in text and "import pickle" not in text, path


def test_nothing_hangs_on_a_clock_that_can_be_set() -> None:
    """Durations come from perf_counter or monotonic, what a killed writer left is known by its lock."""
    for path in [*_files("helmas_core"), *_files("helmas_cli")]:
        assert "time.time(" not in path.read_text(), path
