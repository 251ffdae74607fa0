"""Channel tasks: told once, asked once, nothing shared between the splits, the same facts at every length."""

from __future__ import annotations

import random
import re
from itertools import combinations

import pytest

from helmas_core.data.channels.filler import TOKENS_PER_WORD, fill
from helmas_core.data.channels.languages import LANGUAGES
from helmas_core.data.channels.registry import CHANNELS
from helmas_core.data.channels.told import Told, number
from helmas_core.data.channels.words import FIRST_NAMES, LAST_NAMES, MONTHS, NAMES, NOUNS, PLACES
from helmas_core.data.item import Item
from helmas_core.data.parse import same_answer
from helmas_core.data.tasks import get_task, load_items
from helmas_core.errors import DataError
from helmas_core.handoff.prepare import prepare
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent

pytestmark = pytest.mark.unit
SPLITS = ("train", "validation", "test")
LISTS = (NAMES, NOUNS, PLACES, FIRST_NAMES, LAST_NAMES, *(language.words for language in LANGUAGES.values()))
KNOWN = {word for words in LISTS for word in words}
every_channel = pytest.mark.parametrize("channel", CHANNELS)


def items(name: str, split: str = "test", count: int = 60, seed: int = 0) -> list[Item]:
    return load_items(get_task(f"channel:{name}"), split, count, seed)


def told(channel: str, split: str, count: int = 400) -> list[Told]:
    return [CHANNELS[channel](random.Random(f"{split}/{index}"), split) for index in range(count)]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text)


@pytest.mark.parametrize("length", ["", "@256"])
@pytest.mark.parametrize("split", SPLITS)
@every_channel
def test_the_answer_is_told_once_and_not_in_the_question(channel: str, split: str, length: str) -> None:
    task = get_task(f"channel:{channel}{length}")
    for item in items(channel + length, split):
        letters = r"\d" if "さん" in item.question else r"\w-"  # Japanese writes its words without spaces
        found = re.findall(rf"(?<![{letters}]){re.escape(item.answer)}(?![{letters}])", item.private)
        assert len(found) == 1, item
        assert item.answer not in item.question
        assert item.question.count("\n") == item.answer.count("\n") == 0
        assert item.answer == item.answer.strip() and len(item.answer) <= 60
        assert same_answer(task, task.parse(f" {item.answer.upper()}.\nmore"), item.answer)
        assert not same_answer(task, task.parse(f" x{item.answer}"), item.answer)
        assert item.cue == "\nAnswer:"


@every_channel
def test_what_is_told_holds_other_answers_too(channel: str) -> None:
    """A bridge must find the right one: questions about one text have several answers, but for `copy`'s one phrase."""
    asked = {len(one.sentences) for one in told(channel, "test", 50)}
    assert asked == {{"copy": 1, "languages": 3, "rare": 3, "invented": 3}.get(channel, 4)}


@every_channel
def test_splits_share_no_answer_and_no_text(channel: str) -> None:
    for one, two in combinations([told(channel, split) for split in SPLITS], 2):
        assert not {t.answer for t in one} & {t.answer for t in two}
        assert not {t.sentences for t in one} & {t.sentences for t in two}


@pytest.mark.parametrize("channel", ["copy", "digits", "facts", "invented", "languages", "rare"])
def test_splits_share_no_name(channel: str) -> None:
    seen = [{w for t in told(channel, split) for w in words(" ".join(t.sentences))} & KNOWN for split in SPLITS]
    assert all(seen)
    for one, two in combinations(seen, 2):
        assert not one & two


def test_invented_names_are_new_in_every_item() -> None:
    names = [one.answer for split in SPLITS for one in told("invented", split)]
    assert len(set(names)) > 0.99 * len(names)
    assert len({letters for name in names for letters in re.findall("...", name)}) > 2000  # a list has some hundreds


def test_code_shares_no_identifier() -> None:
    def identifiers(split: str) -> set[str]:
        text = "\n".join(sentence for one in told("code", split) for sentence in one.sentences).replace("add_", "")
        return {name.lower().replace("_", "") for name in re.findall(r"\w+_\w+|(?<=class )\w+", text)}

    names = [identifiers(split) for split in SPLITS]
    assert all(names)
    assert not any(one & two for one, two in combinations(names, 2))


def nameless(text: str) -> str:
    """Without its names, which are all that has a capital letter but for a sentence's own first word."""
    opened = text.startswith(("Engraved", "On", "The ", "They")) and len(re.match(r"\w+", text)[0])  # type: ignore[index]
    return text[:opened] + re.sub(r"\b[^\W\d_](?<![a-z])\w*", "_", text[opened:].replace("-", " "))


@every_channel
def test_test_is_phrased_anew(channel: str) -> None:
    def bare(text: str) -> str:
        text = nameless(text) if channel == "invented" else text
        text = re.sub(r"[^\W\d_]+_[^\W\d_]+|(?<=class )\w+|[A-Z0-9]{3}-[A-Z0-9]{2}", "_", text)
        text = re.sub(rf"\b({'|'.join([*sorted(KNOWN, key=len, reverse=True), *MONTHS])})\b|\d+", "_", text)
        return re.sub(r"_+( _+)*", "_", text)

    forms = {split: {bare(s) for one in told(channel, split) for s in one.sentences} for split in SPLITS}
    assert not forms["test"] & (forms["train"] | forms["validation"])
    assert forms["train"] == forms["validation"]
    assert len(forms["train"]) < 20


def test_test_has_sorts_of_answers_that_training_has_not() -> None:
    kinds = {(channel, split): {t.kind for t in told(channel, split)} for channel in CHANNELS for split in SPLITS}
    assert kinds["facts", "train"] == {"number", "word", "date", "place"}
    assert kinds["facts", "test"] == kinds["facts", "train"] | {"code", "time"}
    assert kinds["languages", "train"] == {"de", "fr", "es", "it"}
    assert kinds["languages", "test"] == kinds["languages", "train"] | {"pt", "ja"}
    assert all(kinds["digits", split] == {f"{n}-digits" for n in range(1, 9)} for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("digits", range(1, 9))
def test_numbers_have_the_length_asked_for(split: str, digits: int) -> None:
    made = {number(random.Random(seed), split, digits) for seed in range(50)}
    assert {len(value) for value in made} == {digits}
    assert not any(value.startswith("0") for value in made if digits > 1)


@every_channel
def test_items_are_a_function_of_split_and_seed(channel: str) -> None:
    assert items(channel, "train", 20, 3) == items(channel, "train", 20, 3)
    assert items(channel, "train", 20, 3)[:5] == items(channel, "train", 5, 3)
    questions = [[(i.private, i.question) for i in items(channel, "train", 20, seed)] for seed in (3, 4)]
    assert questions[0] != questions[1]
    assert items(channel, "test", 9, 3) == items(channel, "test", 9, 4)
    assert len({i.private for i in items(channel, "test", 200)}) >= 195
    assert len({i.id for i in items(channel, "test", 200)}) == 200


@every_channel
def test_every_length_asks_about_the_same_facts(channel: str) -> None:
    plain = items(channel, count=10)
    sizes = []
    for length in (64, 256, 1024):
        long = items(f"{channel}@{length}", count=10)
        assert [(i.question, i.answer) for i in long] == [(i.question, i.answer) for i in plain]
        assert not {i.id for i in long} & {i.id for i in plain}
        sizes.append(TOKENS_PER_WORD * sum(len(i.private.split()) for i in long) / len(long))
    assert sizes == sorted(sizes)
    assert sizes[1] == pytest.approx(256, rel=0.15)
    assert sizes[2] == pytest.approx(1024, rel=0.1)


def test_filler_stands_around_what_is_told_but_only_after_what_is_to_be_copied() -> None:
    for item in items("copy@256"):
        assert item.answer in item.private.split(".")[0]
    depths = [item.private.index(item.answer) / len(item.private) for item in items("facts@512", count=200)]
    assert min(depths) < 0.15 and max(depths) > 0.85
    assert all(
        line.startswith(("#", " ")) or re.search(r"\d|:$", line) for line in items("code@512")[0].private.split("\n")
    )


@every_channel
def test_what_is_told_keeps_its_order_among_filler(channel: str) -> None:
    for index, (plain, long) in enumerate(zip(items(channel), items(f"{channel}@256"), strict=True)):
        rng = random.Random(f"{channel}/test/0/{index}")
        sentences = CHANNELS[channel](rng, "test").sentences
        assert plain.private == ("\n" if channel == "code" else " ").join(sentences)
        places = [long.private.index(sentence) for sentence in sentences]
        assert places == sorted(places)


def test_filler_says_nothing_that_could_be_an_answer() -> None:
    said = " ".join(fill(random.Random(0), 20_000))
    assert not re.search(r"\d", said)
    assert not {word.casefold() for word in words(said)} & {word.casefold() for word in [*KNOWN, *MONTHS]}
    assert fill(random.Random(0), 0) == fill(random.Random(0), -5) == []


def test_lists_hold_no_word_twice() -> None:
    for known in LISTS:
        assert len(set(known)) == len(known)
        assert len(known) >= 10


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("channel:fact", 'did you mean "facts"'),
        ("channel:", "known: code, copy"),
        ("channel:facts@", "channel:NAME@TOKENS"),
        ("channel:facts@0", "channel:NAME@TOKENS"),
        ("channel:facts@long", "channel:NAME@TOKENS"),
    ],
)
def test_other_names_are_refused(name: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        get_task(name)
    assert what in str(caught.value)


@pytest.mark.parametrize("handoff", ["prompt", "reasoning"])
def test_the_teacher_reads_what_is_told_and_the_student_the_question(lab_pair: Pair, handoff: str) -> None:
    from helmas_core.layering import load_config

    config = load_config(["lab"], ["data.dataset=channel:digits@64", f"data.handoff={handoff}"])
    for example in prepare(config, lab_pair, "test", 5, 0, Silent()):
        source, query = (lab_pair.tokenizer.decode(list(ids)) for ids in (example.source, example.query))
        assert source == example.item.private
        assert query == f"\n{example.item.question}\nAnswer:"
