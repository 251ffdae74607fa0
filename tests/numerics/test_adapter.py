"""The student's LoRA: at work on what goes on from a bridged cache, absent from everything else, bit for bit."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CodeGenConfig, CodeGenForCausalLM

from helmas_core.bridges.artefact import describe, load_bridge, read_metadata, save_bridge, write_tensors
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import ARMS, BridgeSection, Config, TrainConfig
from helmas_core.conversation import Conversation
from helmas_core.errors import CacheError, CheckpointError, ConfigError
from helmas_core.evaluation.arms import Arms, batches
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.layering import load_config
from helmas_core.models import inject
from helmas_core.models.adapter import StudentLora, output_projections
from helmas_core.models.cache import capture
from helmas_core.models.loading import fingerprint
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent
from helmas_core.training.objective import Objective
from helmas_core.validation import validate
from tests.numerics.test_losses import relay_examples
from tests.tiny import FAMILIES, tiny_model, tiny_pair

pytestmark = pytest.mark.numerics
QUERY = [[11, 12, 13], [14, 15]]


def _section(rank: int | None = 4, **more: Any) -> BridgeSection:
    return BridgeSection.model_validate({"start": "random", "student_lora": rank, **more})


def _bridge(pair: Pair, rank: int | None = 4, **more: Any) -> Bridge:
    """A bridge whose own weights do not depend on `rank`, with a LoRA that is far from its start."""
    torch.manual_seed(0)
    bridge = build_bridge(_section(rank, **more), pair)
    if bridge.student_lora is not None:
        _stir(bridge.student_lora)
    return bridge


def _stir(lora: StudentLora) -> None:
    for parameter in lora.up:
        torch.nn.init.normal_(parameter)


@contextmanager
def _overheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Every cache that a model goes on from, and all logits."""
    heard: list[Tensor] = []
    filled, step = inject._filled, inject._step

    def listen(*given: Any, **more: Any) -> Tensor:
        heard.append(step(*given, **more))
        return heard[-1]

    with monkeypatch.context() as patch:
        patch.setattr(inject, "_filled", lambda m, c: [heard.extend(c.keys + c.values if c else ()), filled(m, c)][1])
        patch.setattr(inject, "_step", listen)
        yield heard


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) > 0 and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_lora_changes_nothing_and_a_stirred_one_does(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family).requires_grad_(False).to(dtype=dtype)  # type: ignore[arg-type]
    cache, query = capture(model, *pad_left([[5, 6, 7], [8, 9]], 0)), pad_left(QUERY, 0)
    plain, lora = inject.forward(model, cache, *query), StudentLora(model, 4)
    assert all(p.dtype == torch.float32 for p in lora.parameters())
    with lora.active():
        assert torch.equal(inject.forward(model, cache, *query), plain)
        _stir(lora)
        assert not torch.equal(inject.forward(model, cache, *query), plain)
    assert torch.equal(inject.forward(model, cache, *query), plain)


def test_it_equals_the_product_of_both_maps_added_to_the_weights() -> None:
    model, query = tiny_model("qwen3"), pad_left(QUERY, 0)
    lora, merged = StudentLora(model, 3), copy.deepcopy(model)
    _stir(lora)
    with torch.no_grad():
        for holder, down, up in zip(output_projections(merged)[1], lora.down, lora.up, strict=True):
            holder.o_proj.weight += 2 * up @ down  # type: ignore[operator]
        with lora.active():
            ours = inject.forward(model, None, *query)
    torch.testing.assert_close(ours, inject.forward(merged, None, *query), rtol=1e-4, atol=1e-4)


def test_the_model_is_module_for_module_what_it_was() -> None:
    model = tiny_model()
    before, lora = dict(model.named_modules()), StudentLora(model, 2)
    with lora.active():
        inside = dict(model.named_modules())
        with pytest.raises(CacheError), lora.active():
            raise CacheError("stop")
        assert dict(model.named_modules()) == inside != before
    assert dict(model.named_modules()) == before
    assert "peft_config" not in vars(model)


def test_it_owns_its_two_maps_and_counts_them_apart(unequal: Pair) -> None:
    with_it, without = _bridge(unequal, 4), _bridge(unequal, None)
    assert without.parameter_counts() == {"parameters": without.parameter_count()}
    width = unequal.student.geometry.attention_heads * unequal.student.geometry.head_dim
    lora = 3 * 4 * (width + unequal.student.model.config.hidden_size)
    assert with_it.parameter_counts() == {**without.parameter_counts(), "student_lora_parameters": lora}
    assert {n for n in with_it.state_dict() if n not in without.state_dict()} == {
        f"student_lora.{part}.{layer}" for part in ("down", "up") for layer in range(3)
    }


@pytest.mark.parametrize("mode", ["replace", "fuse"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("arm", ARMS)
def test_only_arms_on_a_bridged_cache_feel_it(
    unequal: Pair, arm: str, shared: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the caches they start from: also in mode "fuse" the student reads the source as it is."""
    pair = tiny_pair(unequal.student.model, unequal.student.model) if shared else unequal
    [batch] = batches(relay_examples(pair), 4)
    heard = []
    for rank in (None, 4):
        arms = Arms(pair, _bridge(pair, rank, mode=mode), 4)
        with _overheard(monkeypatch) as found:
            arms.run(arm, batch)
        heard.append(found)
    caches = 2 * pair.student.geometry.layers
    if arm in ("bridge", "deranged"):
        assert _same(*(found[:caches] for found in heard))
        assert not torch.equal(heard[0][caches], heard[1][caches])
    else:
        assert _same(*heard)


def test_references_and_recorded_queries_are_the_plain_students(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, weights, heard, terms = relay_examples(unequal), {"attention": 1.0, "kl": 1.0, "ce": 1.0}, [], []
    for rank in (None, 4):
        objective = Objective(unequal, _bridge(unequal, rank), validate(TrainConfig, {"continuation": 0.5}))
        with _overheard(monkeypatch) as found:
            terms.append(objective(examples, weights, random.Random(0))[1])
        heard.append([tensor for tensor in found if tensor.dim() == 3])  # logits: the reference's, then the bridged
    (plain, bridged), (reference, adapted) = heard
    assert torch.equal(plain, reference) and not torch.equal(bridged, adapted)
    assert terms[0]["attention"] == terms[1]["attention"]
    assert terms[0]["kl"] != terms[1]["kl"] and terms[0]["ce"] != terms[1]["ce"]


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_both_maps_learn_and_the_student_does_not(unequal: Pair, loss: str) -> None:
    before = fingerprint(unequal.student.model)
    bridge = build_bridge(_section(), unequal)
    objective, lora = Objective(unequal, bridge, validate(TrainConfig, {})), bridge.student_lora
    assert lora is not None
    start = [p.detach().clone() for p in lora.parameters()]
    optimiser = torch.optim.AdamW(bridge.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(2):
        optimiser.zero_grad()
        objective(relay_examples(unequal), {loss: 1.0}, random.Random(0))[0].backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lora.up)
        assert all(bool(p.grad is not None and p.grad.any()) == (step == 1) for p in lora.down)  # B is zero at first
        optimiser.step()
    assert not any(torch.equal(p, old) for p, old in zip(lora.parameters(), start, strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in unequal.student.model.parameters())
    assert fingerprint(unequal.student.model) == before


def test_a_conversation_feels_it_after_a_hand_off_only(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(["lab"], ["eval.baseline_tokens=3"])
    for thinks in (False, True):
        heard: dict[str, list[Any]] = {"student": [], "teacher": [], "bridge": []}
        for rank in (None, 4):
            talk = Conversation(config, unequal, _bridge(unequal, rank))
            talk.thinks = thinks
            for who, found in heard.items():
                with _overheard(monkeypatch) as logits:
                    talk._answer(who, "Kara has 412. Answer: Kara", [], lambda _: None)
                found.append(logits)
        assert _same(*heard["student"]) and _same(*heard["teacher"]) and not _same(*heard["bridge"])


def _saved(path: Path, pair: Pair, section: BridgeSection) -> Bridge:
    bridge = _bridge(pair, section.student_lora)
    save_bridge(path, bridge, describe(Config(bridge=section), pair, {}))
    return bridge


def test_a_round_trip_gives_the_same_answers(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = _saved(tmp_path / "b.safetensors", unequal, _section())
    again, [batch] = load_bridge(tmp_path / "b.safetensors", unequal), batches(relay_examples(unequal), 4)
    heard = []
    for one in (bridge, again):
        with _overheard(monkeypatch) as found:
            Arms(unequal, one, 4).run("bridge", batch)
        heard.append(found)
    assert _same(*heard)
    assert not any(p.requires_grad for p in again.parameters())
    assert read_metadata(tmp_path / "b.safetensors")["config"]["bridge"]["student_lora"] == 4


def test_a_file_whose_lora_does_not_fit_is_refused(unequal: Pair, tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    _saved(path, unequal, _section())
    document, tensors = read_metadata(path), load_file(path)
    write_tensors(path, {n: t for n, t in tensors.items() if n != "student_lora.up.1"}, document)
    with pytest.raises(CheckpointError, match=r"student_lora\.up\.1"):
        load_bridge(path, unequal)
    for rank in (None, 5):
        config = {**document["config"], "bridge": {**document["config"]["bridge"], "student_lora": rank}}
        write_tensors(path, tensors, {**document, "config": config})
        with pytest.raises(CheckpointError, match=r"student_lora\.down\.0"):
            load_bridge(path, unequal)


def test_a_report_counts_it_apart(unequal: Pair) -> None:
    bridge = _bridge(unequal)
    config, examples = Config(bridge=_section()), relay_examples(unequal)
    found = evaluate_examples(config, unequal, bridge, examples, ("student",), "validation", Silent())["bridge"]
    assert found["parameters"] == _bridge(unequal, None).parameter_count()
    assert found["student_lora_parameters"] > 0


def test_without_peft_the_error_says_what_to_install(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r'bridge.student_lora: peft is needed.*pip install "helmas\[lora\]"'):
        build_bridge(_section(), unequal)
    build_bridge(_section(None), unequal)


def test_a_family_without_an_output_projection_is_refused() -> None:
    model = CodeGenForCausalLM(CodeGenConfig(n_layer=1, n_head=4, n_embd=64, rotary_dim=8, vocab_size=16))
    with pytest.raises(ConfigError, match="codegen has no attention output projection"):
        StudentLora(model, 4)


@pytest.mark.parametrize("rank", [0, -1, "eight"])
def test_a_rank_is_a_positive_number(rank: object) -> None:
    with pytest.raises(ConfigError, match=r"bridge\.student_lora"):
        validate(Config, {"bridge": {"student_lora": rank}})
