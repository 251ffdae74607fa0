"""The five commands, run as a person runs them, on the lab pair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helmas_core.sharing.public import REPORT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
TOLD = "Seat numbers: Kara 412, Tona 318, Bovik 977, Lami 205. Answer: Kara"


def helmas(*arguments: str, cwd: Path, said: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "helmas_cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, input=said, capture_output=True, text=True, timeout=300)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bridge for the lab pair, trained for a short while; its folder."""
    folder = tmp_path_factory.mktemp("work")
    quick = ("-s", "train.steps=120", "-s", "train.eval_samples=12", "-s", "data.limit=3000")
    found = document(helmas("train", "-p", "lab", *quick, "-o", "runs/quick", "--json", "-q", cwd=folder))
    assert found["command"] == "train"
    assert found["steps"] == 120
    assert found.keys() >= {"schema", "run", "bridge", "parameters", "steps", "seconds", "losses", "eval"}
    return folder


def test_a_short_training_carries_content(trained: Path) -> None:
    done = helmas(
        "eval", "--bridge", "runs/quick", "--dataset", "relay", "--limit", "100", "--json", "-o", "out", cwd=trained
    )
    found = document(done)
    assert found["agreement"] == {"own-text": 1.0}
    assert found["contrasts"]["bridge-deranged"]["ci"][0] > 0.3
    assert json.loads((trained / "out/report.json").read_text())["arms"] == found["arms"]
    assert (trained / "out/figures/accuracy-relay.png").read_bytes().startswith(b"\x89PNG")
    assert (trained / "out/figures/curves.png").exists()  # from the metrics of the run that trained it
    assert "items" not in found
    items = [json.loads(line) for line in (trained / "out/items.jsonl").read_text().splitlines()]
    assert sum(item["arms"]["bridge"]["right"] for item in items) / 100 == pytest.approx(
        found["arms"]["bridge"]["accuracy"]
    )
    diagnostics = json.loads((trained / "out/diagnostics.json").read_text())["relay"]
    assert [len(diagnostics["layers"]), len(diagnostics["blend"]["k"][0])] == [3, 8]
    assert "Attention on the injected span" in (trained / "out/report.html").read_text()
    assert "bridge-deranged" in (trained / "out/report.md").read_text()


def test_bridges_are_evaluated_beside_each_other(trained: Path) -> None:
    two = ("--bridge", "runs/quick", "--bridge", "runs/quick/bridge.safetensors")
    limits = ("--dataset", "relay", "--limit", "20", "--arms", "student,bridge,deranged", "-q", "-o", "both")
    done = helmas("eval", *two, *limits, "--json", "--fail-under", "bridge=1.01", cwd=trained)
    assert done.returncode == 3
    assert done.stderr.splitlines()[1].startswith("gate not met on relay, quick-2: bridge =")
    found = json.loads(done.stdout)
    (report,) = found["reports"]
    first, second = report["variants"].values()
    assert first["arms"]["bridge"]["accuracy"] == second["arms"]["bridge"]["accuracy"] > 0.2
    assert (first["against_first"], second["against_first"]["delta"]) == (None, 0.0)
    assert report["arms"].keys() == {"student"}
    assert "quick-2" in (trained / "both/report.md").read_text()
    sizes = [one["parameters"] for one in found["variants"]]
    assert sizes == 2 * [json.loads((trained / "runs/quick/report.json").read_text())["parameters"]]


def test_a_bridge_is_shared_and_comes_back(trained: Path) -> None:
    items = ("--dataset", "relay", "--limit", "8", "--arms", "text,own,bridge,deranged", "--json", "-q")
    found = document(helmas("eval", "--bridge", "runs/quick", *items, "-o", "evaluated", cwd=trained))
    assert found.keys() <= {*REPORT}  # a new key is shared or not on purpose
    sent = document(helmas("push", "quick", "./shared", "--report", "evaluated", "--yes", "--json", "-q", cwd=trained))
    assert {"bridge.safetensors", "README.md", "report.json"} <= {one["name"] for one in sent["files"]}
    shared = json.loads((trained / "shared/report.json").read_text())
    assert shared["arms"] == found["arms"] and "git" not in shared["manifest"]
    assert str(trained).encode() not in b"".join(p.read_bytes() for p in trained.glob("shared/**/*") if p.is_file())
    document(helmas("pull", "./shared", "-o", "pulled", "--json", "-q", cwd=trained))
    again = document(helmas("eval", "--bridge", "pulled", *items, cwd=trained))
    assert again["outcomes"] == found["outcomes"]


def test_a_gate_that_is_missed_exits_with_3(trained: Path) -> None:
    arguments = ("eval", "--bridge", "runs/quick", "--dataset", "relay", "--limit", "8", "--arms", "bridge", "-q")
    assert helmas(*arguments, "--fail-under", "bridge=1.01", cwd=trained).returncode in (2, 3)
    assert helmas(*arguments, "--fail-under", "bridge=0.0", cwd=trained).returncode == 0


def test_baseline_measures_both_models(trained: Path) -> None:
    found = document(
        helmas("baseline", "-p", "lab", "--dataset", "relay", "--limit", "20", "--json", "-q", cwd=trained)
    )
    assert found["arms"].keys() == {"student", "teacher"}
    assert found["arms"]["teacher"]["accuracy"] > 0.5


def test_chat_answers_three_turns(trained: Path) -> None:
    said = f"{TOLD}\n/bridge off\n{TOLD}\nAnswer: Tona\n"
    found = document(helmas("chat", "--bridge", "runs/quick", "--json", "-q", cwd=trained, said=said))
    assert [turn["bridged"] for turn in found["turns"]] == [True, False, False]
    assert [turn["answer"] for turn in found["turns"][1:]] == ["412", "318"]


def test_inspect_cache_shows_layers_and_draws_the_blend(trained: Path) -> None:
    found = document(helmas("inspect-cache", "--bridge", "runs/quick", "--json", "--png", "blend.png", cwd=trained))
    assert len(found["layers"]) == 3
    assert all(row["k_cosine"] > 0 for row in found["layers"])
    assert found["rope_residual"]["teacher"] < 1e-4
    assert [len(found["blend"]["k"]), len(found["blend"]["k"][0])] == [3, 8]
    assert (trained / "blend-k.png").read_bytes().startswith(b"\x89PNG")


def test_a_used_run_directory_is_refused_and_kept(trained: Path) -> None:
    before = (trained / "runs/quick/bridge.safetensors").read_bytes()
    done = helmas("train", "-p", "lab", "-o", "runs/quick", cwd=trained)
    assert done.returncode == 2
    assert "--resume" in done.stderr and "--overwrite" in done.stderr
    assert (trained / "runs/quick/bridge.safetensors").read_bytes() == before


def test_a_bridge_for_another_pair_is_refused(trained: Path) -> None:
    done = helmas(
        "eval",
        "--bridge",
        "runs/quick",
        "-s",
        "pair.teacher=lab:student",
        "--dataset",
        "relay",
        "--limit",
        "4",
        cwd=trained,
    )
    assert done.returncode == 2
    assert "another pair" in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 400


def test_h200_is_refused_with_what_is_missing_and_what_would_run(trained: Path) -> None:
    done = helmas("train", "-o", "runs/none", cwd=trained)
    assert done.returncode == 2
    assert "CUDA GPU" in done.stderr and "lab" in done.stderr
    assert not (trained / "runs/none").exists()
