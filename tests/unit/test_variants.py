"""What a comparison compares: presets, methods, and what each variant's configuration comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from helmas_core.bridges.registry import check_method
from helmas_core.comparison.run import check_configs, learnable
from helmas_core.comparison.variants import Variant, of_methods, preset_names, read_preset
from helmas_core.config import Config
from helmas_core.errors import ConfigError
from helmas_core.layering import load_config

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_comparison_that_its_methods_can_do(name: str) -> None:
    preset = read_preset(name)
    base = load_config(["cpu"], over=preset.base)
    configs = {variant.name: variant.config(base, steps=7) for variant in preset.variants}
    check_configs(configs)
    assert len(configs) > 1
    dumped = [config.model_dump_json() for config in configs.values()]
    assert len(set(dumped)) == len(dumped)  # a variant that changes nothing but the first compares nothing


def test_a_method_brings_its_options_and_learning_and_leaves_data_and_batch() -> None:
    base = load_config(["lab"], ["train.batch=5", "data.handoff=prompt"])
    config = of_methods(["helmas", "h2c"])[1].config(base, steps=30)
    assert (config.bridge.method, config.bridge.options["heads"]) == ("h2c", 16)
    assert config.train.learning_rate == 1e-4
    assert (config.train.batch, config.data, config.pair) == (5, base.data, base.pair)
    assert config.train.total_steps() == 30


def test_a_method_without_a_profile_learns_from_what_it_can() -> None:
    base = load_config(["lab"])
    assert {"ce", "cache_mse"} == base.train.stages[0].losses.keys()
    config = learnable(Variant("h2c", {"bridge": {"method": "h2c"}}).config(base, steps=12))
    assert config.train.stages[0].losses.keys() == {"ce"}
    assert config.train.total_steps() == 12
    check_method(config.bridge, config.train)


def test_where_no_loss_is_left_answers_are_learnt_for_as_many_steps() -> None:
    stages = 'train.stages=[{name="warm",steps=9,losses={cache_mse=1.0}}]'
    config = learnable(load_config(["lab", "h2c"], [stages]))
    assert [(s.steps, dict(s.losses)) for s in config.train.schedule()] == [(9, {"ce": 1.0})]


def test_a_variant_goes_over_what_all_share() -> None:
    base = load_config(["lab"], ["train.seed=3", "bridge.rank=16"])
    config = Variant("deep", {"bridge": {"projector_depth": 3}}).config(base)
    assert (config.train.seed, config.bridge.options["rank"], config.bridge.options["projector_depth"]) == (3, 16, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nbatch = 2", "not a comparison"),
        ("[variants]\na = 1", "not a comparison"),
        ('[variants."../up"]\ntrain.seed = 1', "cannot name a folder"),
        ("[variants.a", "not readable as TOML"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_preset(str(path))


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean "blending"'):
        read_preset("blendin")


def test_a_variant_that_its_method_cannot_do_is_named() -> None:
    bad = load_config(["lab", "h2c"], ['train.stages=[{name="a",steps=1,losses={cache_mse=1.0}}]'])
    with pytest.raises(ConfigError, match=r"odd: .*cannot learn from cache_mse"):
        check_configs({"good": load_config(["lab"]), "odd": bad})


def test_methods_are_named_once() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        of_methods(["kava", "kava"])
    assert isinstance(of_methods(["kava"])[0].config(Config()), Config)
