"""Conversations: turns are kept, the bridge can be switched, what is streamed is what is answered."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core import conversation, reading
from helmas_core.bridges.registry import build_bridge
from helmas_core.conversation import Conversation, Turn
from helmas_core.errors import ConfigError
from helmas_core.layering import load_config
from helmas_core.models.hardware import clock
from helmas_core.models.inject import Generation
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import ChatTemplate, encode
from helmas_core.turns import plain, render_turns, split

pytestmark = pytest.mark.unit
TOLD = "Seat numbers: Kara 412, Tona 318, Bovik 977, Lami 205. Answer: Kara"


@pytest.fixture
def talk(lab_pair: Pair) -> Conversation:
    config = load_config(["lab"], ["eval.baseline_tokens=6"])
    return Conversation(config, lab_pair, build_bridge(config.bridge, lab_pair))


def test_the_last_sentence_is_what_is_asked() -> None:
    assert split(TOLD) == ("Seat numbers: Kara 412, Tona 318, Bovik 977, Lami 205.", "\nAnswer: Kara")
    assert split("Bo is ill. Who is ill?") == ("Bo is ill.", "\nWho is ill?\nAnswer:")
    assert split("mod 10: a=3; b=a+4; b=") == ("mod 10: a=3; b=a+4;", "\nb=")


def test_a_lone_sentence_is_read_by_the_teacher() -> None:
    assert plain("Say something.", []) == ("Say something.", "\nAnswer:")


def test_earlier_turns_are_read_again() -> None:
    source, query = plain("Answer: Tona", [(TOLD, "412")])
    assert source == "Seat numbers: Kara 412, Tona 318, Bovik 977, Lami 205.\nAnswer: Kara 412"
    assert query == "\nAnswer: Tona"


def test_the_student_alone_answers_from_the_text(lab_pair: Pair) -> None:
    alone = Conversation(load_config(["lab"]), lab_pair, None)
    assert not alone.bridged
    assert alone.ask(TOLD).text == "412"
    assert alone.ask("Answer: Tona").text == "318"
    assert [turn.question for turn in alone.turns] == [TOLD, "Answer: Tona"]


def test_what_is_streamed_is_the_answer(talk: Conversation) -> None:
    pieces: list[str] = []
    turn = talk.ask(TOLD, pieces.append)
    assert "".join(pieces).strip() == turn.text
    assert turn.seconds.keys() == {"teacher reads", "bridge", "answer", "total"}
    assert turn.tokens > 0


def test_the_bridge_can_be_switched_off_and_on(talk: Conversation) -> None:
    talk.bridged = False
    assert talk.ask(TOLD).seconds.keys() == {"answer", "total"}
    talk.bridged = True
    assert "bridge" in talk.ask(TOLD).seconds


def test_compare_answers_the_last_turn_by_each(talk: Conversation) -> None:
    talk.bridged = False
    talk.ask(TOLD)
    answers = talk.compare()
    assert answers.keys() == {"student", "bridge", "teacher"}
    assert answers["student"] == answers["teacher"] == "412"
    assert len(talk.turns) == 1


def test_without_a_bridge_there_is_nothing_to_switch_on(lab_pair: Pair) -> None:
    alone = Conversation(load_config(["lab"]), lab_pair, None)
    alone.bridged = True
    with pytest.raises(ConfigError, match="no bridge"):
        alone.ask(TOLD)


def test_reset_forgets(talk: Conversation) -> None:
    talk.ask(TOLD)
    talk.reset()
    assert talk.turns == []
    assert talk.compare() == {}


def test_a_clock_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert clock(cpu) <= clock(gpu) <= clock(cpu)
    assert waited == [gpu]


def test_every_part_is_timed_with_that_clock(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(conversation, "clock", lambda device: float(next(ticks)))
    monkeypatch.setattr(reading, "clock", lambda device: float(next(ticks)))
    assert talk.ask(TOLD).seconds == {"teacher reads": 1.0, "bridge": 1.0, "answer": 1.0, "total": 7.0}


MORE = [TOLD, "Answer: Tona", "Lami moved to 511. Answer: Lami", "Answer: Bovik"]


def same(one: Turn, other: Turn) -> bool:
    return (one.text, one.tokens) == (other.text, other.tokens)


def scratch(talk: Conversation) -> Conversation:
    """The same conversation with nothing read yet."""
    fresh = Conversation(talk.config, talk.pair, talk.bridge)
    fresh.turns, fresh.settings, fresh.system = list(talk.turns), talk.settings, talk.system
    return fresh


@pytest.mark.parametrize("temperature", ["0", "1.5"])
def test_what_is_taken_back_or_loaded_is_answered_as_it_was(
    talk: Conversation, temperature: str, tmp_path: Path
) -> None:
    talk.set("temperature", temperature)
    talk.set("seed", "4")
    talk.system = "These are seats."
    for text in MORE[:2]:
        talk.ask(text)
    talk.save(tmp_path / "talk.json")
    answers = [talk.ask(text) for text in MORE[2:]]
    assert [talk.undo(), talk.undo()] == [MORE[3], MORE[2]]
    assert all(same(talk.ask(text), answer) for text, answer in zip(MORE[2:], answers, strict=True))
    other = Conversation(talk.config, talk.pair, talk.bridge)
    other.load(tmp_path / "talk.json")
    assert (other.system, other.settings) == (talk.system, talk.settings)
    assert all(same(other.ask(text), answer) for text, answer in zip(MORE[2:], answers, strict=True))


def test_nothing_to_take_back(talk: Conversation) -> None:
    assert talk.undo() is None


def test_a_conversation_held_with_other_models_is_told(talk: Conversation, tmp_path: Path) -> None:
    talk.ask(TOLD)
    talk.save(tmp_path / "talk.json")
    notes: list[str] = []
    other = Conversation(talk.config, talk.pair, build_bridge(talk.config.bridge, talk.pair), notes.append)
    other.load(tmp_path / "talk.json")
    assert notes == ["it was held with another bridge: answers may differ"]
    with pytest.raises(ConfigError, match="over a bridge"):
        Conversation(talk.config, talk.pair, None).load(tmp_path / "talk.json")


class Interrupting:
    """Listens, and presses Ctrl-C at the `count`th word."""

    def __init__(self, count: int) -> None:
        self.left, self.heard = count, ""

    def __call__(self, piece: str) -> None:
        self.left -= 1
        self.heard += piece if self.left >= 0 else ""
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("bridged", [True, False])
def test_a_stopped_answer_stays_and_the_next_is_as_from_scratch(talk: Conversation, bridged: bool) -> None:
    talk.bridged = bridged
    talk.set("temperature", "3")  # so that answers are long enough to be stopped
    talk.ask(TOLD)
    listener = Interrupting(2)
    turn = talk.ask(MORE[1], listener)
    assert turn.stopped and turn.text and turn.text == listener.heard.strip()
    assert (talk.turns[-1].answer, talk.turns[-1].stopped) == (turn.text, True)
    fresh = scratch(talk)
    fresh.bridged = bridged
    assert same(talk.ask(MORE[2]), fresh.ask(MORE[2]))


def test_stopped_before_the_first_word_nothing_changes(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.ask(TOLD)
    with monkeypatch.context() as patch:
        patch.setattr(conversation, "generate", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            talk.ask(MORE[1])
    assert len(talk.turns) == 1
    fresh = scratch(talk)
    assert same(talk.ask(MORE[1]), fresh.ask(MORE[1]))


def _interrupt(*_: Any, **__: Any) -> Generation:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("cut", "told"), [(False, "Kara has 412.\nSo it is 412."), (True, "Kara has 412.")])
def test_reasoning_is_handed_over_as_the_bridge_was_trained(
    lab_pair: Pair, monkeypatch: pytest.MonkeyPatch, cut: bool, told: str
) -> None:
    sets = ["data.handoff=reasoning", f"data.cut_last_step={str(cut).lower()}", "eval.baseline_tokens=4"]
    config, notes = load_config(["lab"], sets), list[str]()
    thinking = Conversation(config, lab_pair, build_bridge(config.bridge, lab_pair), notes.append)
    written = encode(lab_pair.tokenizer, f"Kara has 412.\nSo it is 412.{conversation.CUE} 412")
    real = conversation.generate

    def generate(model: Any, *given: Any, **more: Any) -> Generation:
        return Generation([written]) if model is lab_pair.teacher.model else real(model, *given, **more)

    monkeypatch.setattr(conversation, "generate", generate)
    turn = thinking.ask(TOLD)
    assert turn.reasoning == told
    asked = "\nThe final answer is" if cut else ""
    assert str(lab_pair.tokenizer.decode(thinking._source)).endswith(f"{told}{asked}")
    pieces = [text for text, _ in thinking._pieces(lab_pair, TOLD, [], told)]
    assert pieces[-2:] == [f"{told}{asked}", conversation.CUE.removeprefix(asked)]  # one string, as training reads it
    assert turn.seconds.keys() == {"teacher thinks", "teacher reads", "bridge", "answer", "total"}
    assert notes == ["a question has no reasoning of its own here: the teacher writes it (data.reasoning)"]


def test_a_system_prompt_comes_first_or_is_refused(lab_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert render_turns(None, "Bo is ill. Who?", [], "Be brief.")[0] == "Be brief.\nBo is ill."
    monkeypatch.setattr(
        lab_pair.tokenizer, "chat_template", "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    template = ChatTemplate(lab_pair.tokenizer)
    assert render_turns(template, "hi", [("a", "b")], "Be brief.")[0] == "<system>Be brief.<user>a<assistant>b<user>hi"
    for refusing in ("{{ raise_exception('no') }}", "{{ messages[-1].content }}"):
        monkeypatch.setattr(lab_pair.tokenizer, "chat_template", refusing)
        with pytest.raises(ConfigError, match="no system prompt"):
            render_turns(ChatTemplate(lab_pair.tokenizer), "hi", [], "Be brief.")


def test_the_last_hand_off_is_inspected(talk: Conversation) -> None:
    with pytest.raises(ConfigError, match="nothing was handed over"):
        talk.inspect()
    talk.ask(TOLD)
    document = talk.inspect()
    assert len(document["layers"]) == 3
    assert "Kara 412" in document["text"]


def test_a_talk_that_outgrows_its_training_is_told_once(lab_pair: Pair) -> None:
    config, notes = load_config(["lab"], ["data.max_source_tokens=20", "eval.baseline_tokens=2"]), list[str]()
    talk = Conversation(config, lab_pair, build_bridge(config.bridge, lab_pair), notes.append)
    for text in MORE:
        talk.ask(text)
    assert notes == ["longer than what the bridge was trained on (data.max_source_tokens = 20)"]


@pytest.mark.parametrize(
    ("text", "wanted"), [("\nAnswer: 4\nmore", "\nAnswer: 4"), ("one\ntwo", "one"), ("one", "one"), ("\n", "\n")]
)
def test_an_answer_ends_at_the_first_stop_after_its_first_word(text: str, wanted: str) -> None:
    assert conversation._before(("\n",), text) == wanted
