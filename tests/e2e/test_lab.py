"""The embedded pair is what it claims to be: trained, small, and unlike in every way a bridge must cope with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import helmas_core.lab
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.handoff.prepare import prepare
from helmas_core.layering import load_config
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent

pytestmark = pytest.mark.e2e
FOLDER = Path(helmas_core.lab.__file__).parent
SHA256 = {
    "teacher": "8070ff7e3af0be14e033827ece55c61e53d37c802deb99549816fe2496f22f37",
    "student": "ed2684f3ce6226f8af83dd242456f5fbeaf1a8a724658d22628cbcd0d786b3d5",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_weights_are_the_trained_ones(name: str) -> None:
    assert hashlib.sha256((FOLDER / name / "model.safetensors").read_bytes()).hexdigest() == SHA256[name]


def test_both_fit_in_16_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.safetensors")) < 16e6


def test_the_models_differ_in_every_way(lab_pair: Pair) -> None:
    teacher, student = lab_pair.teacher.geometry, lab_pair.student.geometry
    for what in ("model_type", "layers", "kv_heads", "head_dim", "rope_theta", "hidden_size"):
        assert getattr(teacher, what) != getattr(student, what), what
    for geometry in (teacher, student):
        assert geometry.kv_heads < geometry.attention_heads


def _accuracy(pair: Pair, dataset: str) -> dict[str, float]:
    config = load_config(["lab"], [f"data.dataset={dataset}"])
    examples = prepare(config, pair, "test", 200, 0, Silent())
    found = evaluate_examples(config, pair, None, examples, ("student", "teacher", "text"), "test", Silent())
    return {name: arm["accuracy"] for name, arm in found["arms"].items()}


def test_both_models_read_private_facts(lab_pair: Pair) -> None:
    right = _accuracy(lab_pair, "relay")
    assert right["student"] < 0.05
    assert right["text"] > 0.8
    assert right["teacher"] > 0.8


def test_only_the_teacher_does_chained_arithmetic(lab_pair: Pair) -> None:
    right = _accuracy(lab_pair, "arithmetic")
    assert right["student"] <= 0.5
    assert right["teacher"] >= 0.95
