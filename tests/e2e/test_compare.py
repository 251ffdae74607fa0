"""Methods side by side, from training to the report, and a comparison that goes on where it was left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helmas_core.comparison import run as comparing
from helmas_core.comparison.run import Comparison, learnable
from helmas_core.comparison.variants import of_methods
from helmas_core.config import Config
from helmas_core.errors import ConfigError, DataError, PairError
from helmas_core.evaluation.evaluate import evaluate
from helmas_core.layering import load_config
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent, Stopped
from helmas_core.report.comparison import write_comparison

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
QUICK = ("train.eval_samples=0", "train.calibration_items=200", "data.limit=200", "train.batch=8", "eval.limit=12")
ARMS = 'eval.arms=["student","text","bridge","deranged"]'


def configs(*names: str, sets: tuple[str, ...] = ()) -> dict[str, Config]:
    base = load_config(["lab"], [*QUICK, ARMS, "data.dataset=relay", *sets])
    return {variant.name: learnable(variant.config(base, steps=4)) for variant in of_methods(names)}


class StopsAt(Silent):
    """Asks to stop once the work called `name` has begun."""

    def __init__(self, name: str) -> None:
        self.name, self.begun = name, False

    def note(self, text: str) -> None:
        self.begun = self.begun or text == self.name

    def stop_requested(self) -> bool:
        return self.begun


def test_methods_learn_the_same_items_and_share_the_arms_without_a_bridge(
    lab_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def spied(config: Config, *rest: Any) -> dict[str, Any]:
        asked.append(config.eval.arms)
        return evaluate(config, *rest)

    monkeypatch.setattr(comparing, "evaluate", spied)
    found = Comparison(tmp_path / "out", lambda _: lab_pair, Silent()).go(configs("helmas", "ridge", "c2c"))
    assert asked == [("student", "text", "bridge", "deranged"), ("bridge", "deranged"), ("bridge", "deranged")]
    assert [(one["name"], one["mode"], one["steps"]) for one in found["variants"]] == [
        ("helmas", "replace", 4),
        ("ridge", "replace", 0),
        ("c2c", "fuse", 4),
    ]
    (report,) = found["reports"]
    assert report["arms"].keys() == {"student", "text"}
    assert all({"bridge-text", "bridge-deranged"} <= row["contrasts"].keys() for row in report["variants"].values())
    alone = {name: dict(one["changes"]) for name, one in zip(report["variants"], found["variants"], strict=True)}
    assert alone["ridge"]["bridge.method"] == "ridge"


def test_it_goes_on_where_it_was_stopped_and_comes_to_the_same(lab_pair: Pair, tmp_path: Path) -> None:
    wanted = configs("helmas", "kava")
    straight = Comparison(tmp_path / "straight", lambda _: lab_pair, Silent()).go(wanted)
    with pytest.raises(Stopped):
        Comparison(tmp_path / "halted", lambda _: lab_pair, StopsAt("kava: training")).go(wanted)
    notes: list[str] = []
    silent = Silent()
    silent.note = notes.append  # type: ignore[method-assign]
    again = Comparison(tmp_path / "halted", lambda _: lab_pair, silent).go(wanted)
    assert "helmas: trained before" in notes
    assert "kava: training" in notes
    for name in wanted:
        weights = [(tmp_path / way / name / "bridge.safetensors").read_bytes() for way in ("straight", "halted")]
        assert weights[0] == weights[1]
    assert (
        again["reports"][0]["variants"]["kava"]["arms"]["bridge"]["accuracy"]
        == (straight["reports"][0]["variants"]["kava"]["arms"]["bridge"]["accuracy"])
    )


def test_another_comparison_in_the_same_folder_is_refused(lab_pair: Pair, tmp_path: Path) -> None:
    Comparison(tmp_path, lambda _: lab_pair, Silent()).go(configs("ridge", "helmas"))
    with pytest.raises(ConfigError, match=r"train\.seed: differs"):
        Comparison(tmp_path, lambda _: lab_pair, Silent()).go(configs("ridge", "helmas", sets=("train.seed=1",)))


FEW = ("train.calibration_items=1",)  # too few tokens for a closed form


def test_a_variant_that_cannot_be_trained_does_not_end_the_others(lab_pair: Pair, tmp_path: Path) -> None:
    wanted = configs("ridge", "c2c", "kava", sets=FEW)
    deep = wanted["kava"].bridge.model_copy(update={"method": "modules", "layers": 9})
    wanted["kava"] = wanted["kava"].model_copy(update={"bridge": deep})
    wanted["last"] = wanted["c2c"].model_copy(update={"train": wanted["c2c"].train.model_copy(update={"batch": 4})})
    found = Comparison(tmp_path, lambda _: lab_pair, Silent()).go(wanted)
    assert "the ratio is above" in found["refused"]["ridge"] and "layers" in found["refused"]["kava"]
    rows = found["reports"][0]["variants"]
    assert [one["name"] for one in found["variants"]] == list(rows) == ["c2c", "last"]
    assert [row["against_first"] for row in rows.values()] == [None, None]  # ridge was to be the first
    assert all(one["changes"]["bridge.method"] == "c2c" for one in found["variants"])
    made = {path.name: path for path in write_comparison(tmp_path, found)}
    assert all("not trained: ridge: " in made[name].read_text() for name in ("report.md", "report.html"))


def test_nothing_is_left_to_compare(lab_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the ratio is above"):
        Comparison(tmp_path, lambda _: lab_pair, Silent()).go({"ridge": configs("ridge", sets=FEW)["ridge"]})


def test_a_pair_that_cannot_be_loaded_is_that_variants_alone(lab_pair: Pair, tmp_path: Path) -> None:
    wanted = configs("ridge", "c2c")
    lost = wanted["ridge"].pair.model_copy(update={"teacher": "lost"})
    wanted["ridge"] = wanted["ridge"].model_copy(update={"pair": lost})

    def load(config: Config) -> Pair:
        if config.pair.teacher == "lost":
            raise PairError("no such model")
        return lab_pair

    found = Comparison(tmp_path, load, Silent()).go(wanted)
    assert found["refused"] == {"ridge": "no such model"}
    assert [one["name"] for one in found["variants"]] == ["c2c"]
