"""Pre-flight: every problem of a pair is named before weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
)

from helmas_core.config import Config
from helmas_core.errors import ConfigError, PairError
from helmas_core.layering import load_config
from helmas_core.models.backends import attention_of
from helmas_core.models.doctor import diagnose
from helmas_core.models.geometry import from_config, probe
from helmas_core.models.hardware import check_bits, resolve_hardware
from helmas_core.models.loading import find_problems, fingerprint, freeze, load_pair
from helmas_core.models.pair import Pair, check_rope_base
from helmas_core.models.preflight import alignment_problems, model_problems, sample_alignment
from helmas_core.models.sources import locate
from helmas_core.validation import validate
from tests.foreign import byte_level
from tests.tiny import FAMILIES, ONE_HEAD_EACH, tiny_model

pytestmark = pytest.mark.unit


def _whats(config: PretrainedConfig, tokens: int = 64) -> str:
    return "; ".join(f"{p.severity} {p.what}" for p in model_problems(config, "teacher", tokens))


def test_a_plain_model_has_no_problem() -> None:
    assert _whats(LlamaConfig()) == ""


def test_layers_without_keys_and_values_are_named() -> None:
    config = Qwen2Config(num_hidden_layers=3)
    config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    assert "layer 1 is linear_attention" in _whats(config)


def test_a_sliding_window_is_named_where_sources_go_beyond_it() -> None:
    config = Gemma3TextConfig(num_hidden_layers=6, sliding_window=128)
    assert _whats(config, 127) == ""
    assert _whats(config, 128) == "warning layers 0, 1, 2, 3, 4 are bound to a window of 128 tokens"
    assert _whats(MistralConfig(num_hidden_layers=2, sliding_window=128), 128).startswith(
        "warning layers 0, 1 are bound"
    )
    assert _whats(MistralConfig(num_hidden_layers=2, sliding_window=None), 9999) == ""


def test_attention_of_its_own_makes_a_window_a_limit() -> None:
    config = GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]], window_size=128)
    assert _whats(config, 127) == ""
    assert _whats(config, 128) == "error layer 1 is bound to a window of 128 tokens"


def test_learned_positions_are_a_limit() -> None:
    assert _whats(GPT2Config(n_positions=512), 511) == ""
    assert _whats(GPT2Config(n_positions=512), 512) == "error has learned positions for 512 tokens"


def test_rope_that_depends_on_length_is_named() -> None:
    config = LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert "dynamic NTK" in _whats(config)


def test_latent_caches_and_encoder_decoders_are_named() -> None:
    config = LlamaConfig()
    config.kv_lora_rank, config.is_encoder_decoder = 512, True
    assert all(word in _whats(config) for word in ("MLA", "encoder-decoder"))


def test_code_beside_a_model_matters_only_where_transformers_has_none() -> None:
    class ForeignConfig(LlamaConfig):
        model_type = "foreign"

    foreign, known = ForeignConfig(), LlamaConfig()
    for config in (foreign, known):
        config.auto_map = {"AutoModelForCausalLM": "modeling.Model"}
    assert "never runs" in _whats(foreign)
    assert _whats(known) == ""


def test_tokenizers_are_compared_by_content(lab_pair: Pair) -> None:
    from helmas_core.models.sources import read_tokenizer

    one, other = read_tokenizer("lab:teacher"), read_tokenizer("lab:student")
    assert sample_alignment(one, other) is None and alignment_problems(None, 1.0) == []
    other.add_tokens(["<new>"])
    found = sample_alignment(one, other)
    assert found is not None and found["exact"] == 1.0  # another tokenizer, which cuts the sample alike
    found = sample_alignment(one, byte_level())
    assert found is not None and 0 < found["exact"] < 1
    assert found["exact"] + found["split"] + found["merged"] == pytest.approx(1, abs=1e-3)
    assert alignment_problems(found, found["exact"]) == []
    [problem] = alignment_problems(found, found["exact"] + 0.01)
    assert "pair.min_alignment" in problem.what and problem.where == "pair"


def test_unlike_tokenizers_are_told_of_and_refused_below_a_share(tmp_path: Path) -> None:
    tiny_model(vocab_size=1024).save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    config = _config(teacher="lab:teacher", student=str(tmp_path), min_alignment=0.0)
    found = diagnose(config)
    assert found["ok"] and 0 < found["alignment"]["exact"] < 1
    assert "alignment" not in diagnose(_config(teacher="lab:teacher", student="lab:student"))
    pair = load_pair(config, resolve_hardware(config))
    assert pair.codec is not None and pair.as_teacher.tokenizer_hash == pair.codec.hash != pair.tokenizer_hash
    strict = _config(teacher="lab:teacher", student=str(tmp_path), min_alignment=1.0)
    assert not diagnose(strict)["ok"]
    with pytest.raises(PairError, match=r"cannot be bridged: pair the tokenizers agree on .*min_alignment"):
        load_pair(strict, resolve_hardware(strict))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_agrees_with_the_config_where_both_know(family: str) -> None:
    model = tiny_model(family, layers=4, kv_heads=2, head_dim=24)
    measured, read = probe(model), from_config(model.config)
    assert (measured.layers, measured.kv_heads, measured.head_dim) == (4, 4 if family in ONE_HEAD_EACH else 2, 24)
    assert measured.shape() == read.shape()


def _config(**pair: object) -> Config:
    return validate(Config, {"pair": pair, "hardware": {"device": "cpu"}})


def test_a_local_folder_and_a_lab_name_are_found(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == (str(tmp_path), {})
    assert locate("lab:teacher")[0].endswith("teacher")
    assert locate("owner/name") == ("owner/name", {})


@pytest.mark.parametrize(
    ("source", "said"),
    [("./nowhere", "no such model folder"), ("./nowhere.gguf", "no such GGUF file"), ("lab:dean", "no lab model")],
)
def test_a_wrong_place_says_so(source: str, said: str) -> None:
    with pytest.raises(PairError, match=said):
        locate(source)


def test_a_hub_model_without_a_network_says_what_to_do() -> None:
    config = _config(teacher="nobody/no-such-model", student="lab:student")
    with pytest.raises(PairError, match=r"nobody/no-such-model.*download"):
        load_pair(config, resolve_hardware(config))


def test_neither_side_hides_the_other(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config"}}')
    config = _config(teacher="./nowhere", student=str(tmp_path))
    teacher, student = find_problems(config)
    assert (teacher.where, student.where) == ("teacher", "student")
    assert "no such model folder" in teacher.what and "custom code" in student.what
    assert student.fix == "use a model that transformers knows"
    found = diagnose(config)
    assert [problem["where"] for problem in found["problems"]] == ["teacher", "student"]
    assert (found["ok"], found["geometry"]) == (False, {})


def test_a_bad_pair_is_refused_with_every_problem(tmp_path: Path, lab_pair: Pair) -> None:
    config = LlamaConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, vocab_size=1024)
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    config.save_pretrained(tmp_path)
    lab_pair.tokenizer.save_pretrained(tmp_path)
    broken = _config(teacher=str(tmp_path), student="lab:student")
    with pytest.raises(PairError, match="cannot be bridged: teacher dynamic NTK"):
        load_pair(broken, resolve_hardware(broken))


def test_a_family_without_sdpa_is_loaded_with_what_it_has(tmp_path: Path, lab_pair: Pair) -> None:
    tiny_model("gemma2", sliding_window=64).save_pretrained(tmp_path)
    lab_pair.tokenizer.save_pretrained(tmp_path)
    config, notes = _config(teacher=str(tmp_path), student=str(tmp_path)), list[str]()
    pair = load_pair(config, resolve_hardware(config), notes.append)
    assert f"{tmp_path}: attention eager, since this family has no sdpa" in notes
    assert any("layers 0, 2" in note and "window of 64 tokens" in note for note in notes)
    assert attention_of(pair.student.model) == "helmas_windowed_eager"


def test_doctor_knows_the_default_pair_without_network_or_gpu() -> None:
    found = diagnose(load_config(["h200"]))
    assert found["ok"]
    assert found["bridge_parameters"] == 3_672_032
    assert found["kv_bytes_per_token"] == {"teacher": 147_456, "student": 114_688}
    parts = found["memory_gib"]
    assert found["needed_gib"]["host"] == parts.pop("kept_states") == 40
    assert found["needed_gib"]["gpu"] == pytest.approx(sum(parts.values()), abs=0.01)
    assert found["needed_gib"]["gpu"] > 18


def test_doctor_reads_a_local_pair(lab_pair: Pair) -> None:
    found = diagnose(load_config(["lab"]))
    assert found["geometry_from"] == "config"
    assert found["geometry"]["teacher"]["parameters"] == lab_pair.teacher.geometry.parameters
    assert found["runs_here"]
    assert found["needed_gib"] == {"gpu": 0.0, "host": pytest.approx(sum(found["memory_gib"].values()), abs=0.01)}


def test_a_rope_base_that_contradicts_the_model_is_refused(lab_pair: Pair) -> None:
    check_rope_base(lab_pair, lab_pair.teacher.geometry.rope_theta, None)
    with pytest.raises(ConfigError, match="student_rope_base"):
        check_rope_base(lab_pair, None, 123.0)


def test_a_model_whose_rope_would_be_undone_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = tiny_model(), tiny_model(rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    assert freeze("tiny", model).rope_residual < 1e-5
    monkeypatch.setattr("helmas_core.models.rope._rotary_module", lambda _: other.model.rotary_emb)
    with pytest.raises(PairError, match="RoPE cannot be undone"):
        freeze("tiny", model)


def test_a_fingerprint_sees_every_weight_and_no_dtype() -> None:
    model = tiny_model("qwen2")
    before = fingerprint(model)
    with torch.no_grad():
        for place in (1, 2, 3, 70):  # whichever of them the samples leave out
            weight = next(model.parameters()).view(-1)
            kept = weight[place].clone()
            weight[place] += 0.5
            assert fingerprint(model) != before
            weight[place] = kept
    assert fingerprint(model) == before
    rounded = model.bfloat16()
    assert fingerprint(rounded) == before == fingerprint(rounded.float())


def test_a_teacher_in_four_bits_needs_what_can_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(["lab"], ["pair.teacher_bits=4"])
    with pytest.raises(ConfigError, match=r"pair\.teacher_bits: a 4-bit teacher needs a CUDA GPU"):
        resolve_hardware(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs bitsandbytes — install the extra: pip install "helmas\[quantised\]"'):
        check_bits(config.pair, gpu=True)
    check_bits(load_config(["lab"]).pair, gpu=False)
