"""Conversations: turns are kept, the bridge can be switched, what is streamed is what is answered."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from helmas_core import conversation, reading
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import load_config
from helmas_core.conversation import Conversation
from helmas_core.errors import ConfigError
from helmas_core.models.hardware import clock
from helmas_core.models.pair import Pair
from helmas_core.turns import plain, split

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
    assert talk.ask(TOLD).seconds == {"teacher reads": 1.0, "bridge": 1.0, "answer": 1.0, "total": 6.0}
