"""Texts that grow: read and bridged piece by piece they give what they give at once, for as long as one talks."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config
from helmas_core.conversation import Conversation
from helmas_core.layering import load_config
from helmas_core.models import inject
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.latent import Latent
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import ChatTemplate, pad_left
from helmas_core.reading import BridgedReader, Reader, common_length
from tests.tiny import FAMILIES, tiny_model, tiny_pair

pytestmark = pytest.mark.numerics
TEXT = [5, 17, 200, 31, 8, 99, 400, 12, 77, 3, 650, 41]
GROWING = [TEXT[:3], TEXT[:7], TEXT[:8], TEXT, [*TEXT[:5], 9, 9, 10], TEXT[:4]]  # the last two take something back
TURNS = 50


def assert_same(one: KVCache, other: KVCache) -> None:
    assert torch.equal(one.positions, other.positions) and torch.equal(one.mask, other.mask)
    for a, b in zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_growing_text_is_read_as_if_at_once(family: str) -> None:
    model = tiny_model(family)
    reader = Reader(tiny_pair(model, model).teacher, 0)
    counts = []
    for ids in GROWING:
        assert_same(reader.read(ids), capture(model, *pad_left([ids], 0)))
        counts.append(reader.new)
    assert counts == [3, 4, 1, 4, 3, 0]


def test_an_interrupted_reading_leaves_the_old_text(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(unequal.teacher, 0)
    reader.read(TEXT[:4])
    with monkeypatch.context() as patch:
        patch.setattr("helmas_core.reading.capture", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            reader.read(TEXT)
    assert_same(reader.read(TEXT), capture(unequal.teacher.model, *pad_left([TEXT], 0)))


def _interrupt(*_: Any) -> KVCache:
    raise KeyboardInterrupt


def bridged(pair: Pair, config: Config, notes: list[str], bridge: Bridge | None = None) -> BridgedReader:
    bridge = bridge or build_bridge(config.bridge, pair)
    return BridgedReader(pair, bridge, [Reader(pair.teacher, 0)], Reader(pair.student, 0), notes.append)


@pytest.mark.parametrize("mode", ["replace", "fuse"])
@pytest.mark.parametrize("shape", ["head", "layer", "neighbourhood"])
def test_a_growing_text_is_bridged_as_if_at_once(unequal: Pair, mode: str, shape: str) -> None:
    config = load_config(["lab"], [f"bridge.mode={mode}", f"bridge.projector_input={shape}"])
    notes: list[str] = []
    reader = bridged(unequal, config, notes)
    for ids in GROWING:
        read = pad_left([ids], 0)
        state, own = capture(unequal.teacher.model, *read), capture(unequal.student.model, *read)
        assert_same(reader.read(ids), reader.bridge(state, own))
    assert (reader.pointwise, notes) == (True, [])


class Smearing(torch.nn.Module):
    """A bridge of which every token's output depends on all tokens, so that pieces differ from the whole."""

    hidden, aligned, stays_open = (), True, False

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge, self.mode = bridge, bridge.mode

    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        cache = self.bridge(state, own)
        return replace(cache, values=tuple(v + v.mean(2, keepdim=True) for v in cache.values))


def test_a_bridge_that_sees_neighbours_is_run_over_the_whole(unequal: Pair) -> None:
    config, notes = load_config(["lab"]), list[str]()
    smearing: Any = Smearing(build_bridge(config.bridge, unequal))
    reader = bridged(unequal, config, notes, smearing)
    for ids in GROWING:
        assert_same(reader.read(ids), smearing(capture(unequal.teacher.model, *pad_left([ids], 0))))
    assert reader.pointwise is False
    assert len(notes) == 1 and "as a whole" in notes[0]


@pytest.mark.parametrize(
    ("method", "steps"), [("kava", 0), ("kava", 2), ("c2c", 0), ("h2c", 0), ("h2c", 2), ("modules", 0), ("modules", 2)]
)
def test_every_method_follows_a_growing_text(unequal: Pair, method: str, steps: int) -> None:
    torch.manual_seed(0)
    bridge = build_bridge(BridgeSection(method=method, mode="replace" if method == "modules" else None), unequal).eval()
    teacher = replace(unequal.teacher, latent=Latent(unequal.teacher.model, steps) if steps else None)
    pair = replace(unequal, teacher=teacher)
    reader = BridgedReader(pair, bridge, [Reader(teacher, 0, bridge.hidden)], Reader(pair.student, 0), lambda _: None)
    for ids in GROWING:
        read = pad_left([ids], 0)
        state, own = teacher.read(*read, bridge.hidden), pair.student.read(*read)
        with torch.no_grad():
            assert_same(reader.read(ids), bridge(state, own))
        assert reader.state.length == len(ids) + steps
        for ours, theirs in zip(reader.state.hidden, state.hidden, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_common_length() -> None:
    assert [common_length([1, 2, 3], other) for other in ([], [1], [1, 2, 3, 4], [1, 9, 3], [7])] == [0, 1, 3, 1, 0]


def foreign_bytes(talk: Conversation) -> int:
    """Bytes of all tensors alive, but for the caches that the conversation says it keeps."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) - sum(talk.bytes().values())


def question(index: int) -> str:
    return f"Seat numbers: Kara {index + 100}, Tona {917 - index}. Who sits in {index + 100}?"


@pytest.mark.parametrize("mode", ["replace", "fuse"])
def test_fifty_turns_say_what_each_says_from_scratch(unequal: Pair, mode: str) -> None:
    sets = ["eval.baseline_tokens=4", f"bridge.mode={mode}"]
    config = load_config(["lab"], sets)
    bridge = build_bridge(config.bridge, unequal)
    talk, memory, new = Conversation(config, unequal, bridge), list[int](), list[int]()
    for index in range(TURNS):
        fresh, heard, said = Conversation(config, unequal, bridge), list[str](), list[str]()
        fresh.turns = list(talk.turns)
        expected, turn = fresh.ask(question(index), said.append), talk.ask(question(index), heard.append)
        assert (heard, turn.text, turn.tokens) == (said, expected.text, expected.tokens), index
        assert turn.new + turn.kept == expected.new
        del fresh
        new.append(turn.new)
        if index in (4, TURNS - 1):
            memory.append(foreign_bytes(talk))
    assert max(new[1:]) < 2 * new[1]  # the last turns read no more than the first
    assert memory[1] - memory[0] < 100_000  # masks and positions; one more cache would be a megabyte


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not loop.last %}earlier: {% endif %}"
    "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>think: {% endif %}"
)


@pytest.fixture
def chatting(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A pair whose template writes the assistant's turns anew once they are history."""
    monkeypatch.setattr(unequal.tokenizer, "chat_template", TEMPLATE)
    return replace(unequal, template=ChatTemplate(unequal.tokenizer))


def test_history_that_is_written_anew_is_read_from_where_it_differs(chatting: Pair) -> None:
    config = load_config(["lab"], ["eval.baseline_tokens=4"])
    for bridge in (None, build_bridge(config.bridge, chatting)):
        talk = Conversation(config, chatting, bridge)
        talk.system = "Be brief."
        for index in range(6):
            fresh = Conversation(config, chatting, bridge)
            fresh.turns, fresh.system = list(talk.turns), talk.system
            expected, turn = fresh.ask(question(index)), talk.ask(question(index))
            assert (turn.text, turn.tokens) == (expected.text, expected.tokens)
            assert 0 < turn.new < expected.new or index == 0


def test_draws_depend_on_seed_and_temperature_alone() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))

    def drawn(temperature: float, seed: int) -> list[int]:
        choose = inject.sampler(temperature, seed)
        return [int(choose(logits)) for _ in range(20)]

    assert drawn(0.0, 1) == [int(logits.argmax())] * 20
    assert drawn(1.0, 1) == drawn(1.0, 1) != drawn(1.0, 2)
    assert len(set(drawn(5.0, 1))) > len(set(drawn(0.2, 1)))
