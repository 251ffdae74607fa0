"""What a wheel holds, and that an unpacked one works from any folder."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helmas_core.layering import profile_folder, profile_names

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_finds_its_profiles_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    code = """
from helmas_core.layering import load_config, profile_folder, profile_names
print(profile_folder(), *profile_names())
[load_config([name]) for name in profile_names()]
"""
    environment = {"PYTHONPATH": str(unpacked), "PATH": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    folder, *names = done.stdout.split()
    assert Path(folder) == unpacked / "helmas_core" / "profiles"
    assert names == profile_names()


def test_a_checkout_finds_its_profiles_from_any_folder(tmp_path: Path) -> None:
    code = "from helmas_core.layering import profile_folder; print(profile_folder())"
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == ROOT / "profiles" == profile_folder()


def test_a_wheel_holds_every_module_and_weight(unpacked: Path) -> None:
    kinds = (".py", ".safetensors", ".json", ".typed", ".jinja", ".css", ".js")
    for package in ("helmas_cli", "helmas_core"):
        ours = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.suffix in kinds}
        assert [path for path in sorted(ours) if not (unpacked / path).is_file()] == []


def test_the_console_script(unpacked: Path) -> None:
    (entries,) = unpacked.glob("helmas-*.dist-info/entry_points.txt")
    assert "helmas = helmas_cli.app:main" in entries.read_text()


def _third_party() -> set[str]:
    found: set[str] = set()
    for path in [*(ROOT / "helmas_cli").rglob("*.py"), *(ROOT / "helmas_core").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return found - set(sys.stdlib_module_names) - {"helmas_cli", "helmas_core"}


def test_every_import_is_declared() -> None:
    declared = {normal(re.split(r"[^\w.-]", text)[0]) for text in PROJECT["dependencies"]}
    owners = packages_distributions()
    missing = {name for name in _third_party() if not declared & {normal(owner) for owner in owners.get(name, [name])}}
    assert missing == set()


def test_constraints_are_exact_and_cover_what_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *extras["dev"], *extras["lm-eval"]]
    names = {normal(re.split(r"[^\w.-]", text)[0]) for text in declared}
    pins = {normal(name) for name in PINS}
    assert names - pins == set()
    assert all(re.fullmatch(r"[\w.]+", pin) for pin in PINS.values())


def test_constraints_cover_the_whole_closure() -> None:
    """Every distribution that our dependencies need here is pinned, so that two fresh machines agree.

    What a GPU build of torch brings along is of its own choosing.
    """
    installed = {normal(found.metadata["Name"]): found for found in distributions()}
    seen: set[str] = set()
    queue = [normal(re.split(r"[^\w.-]", text)[0]) for text in PROJECT["dependencies"]]
    while queue:
        name = queue.pop()
        if name in seen or name not in installed or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add(name)
        needs = map(Requirement, installed[name].requires or [])
        queue += [normal(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    assert seen - {normal(name) for name in PINS} - {"helmas"} == set()
