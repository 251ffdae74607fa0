"""What each model reads, character by character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from helmas_core.data.item import Item
from helmas_core.data.prompts import (
    BASELINE_STOP,
    Handoff,
    Prompt,
    Template,
    baseline_prompt,
    render,
    takes_reasoning,
    thinking_prompt,
    without_last_step,
)
from helmas_core.data.tasks import REGISTRY, get_task
from helmas_core.errors import ConfigError, DataError

USER, ASSISTANT = "<sys>\n<user>\n", "<end>\n<assistant>\n"
SUM = Item("s", "What is 9 * 2?", "18", reasoning="9 * 2 = 18.")
PICK = Item("p", "Which is liquid?", "B", choices=("ice", "rain"))
FACT = Item("f", "What is Bo's door code?", "482", private="Bo's door code is 482.")
DERIVED = Item("d", "What is Bo's code?", "18", private="Bo's code is 9 * 2.", reasoning="9 * 2 = 18.")
CHAIN = Item("c", "mod 10: k=3; h=k*2;", "6", cue="\nh=")


def template(user: str, earlier: Sequence[tuple[str, str]] = ()) -> tuple[str, str]:
    return "".join(f"{USER}{asked}{ASSISTANT}{answer}<end>\n" for asked, answer in earlier) + f"{USER}{user}", ASSISTANT


def closing_template(user: str, earlier: Sequence[tuple[str, str]] = ()) -> tuple[str, str]:
    """A template whose user turn is closed before the header."""
    return template(user, earlier)[0] + "<end>\n", "<assistant>\n"


@pytest.mark.parametrize("chat", [None, template, closing_template])
def test_what_is_the_items_in_a_source_is_known_by_its_place(chat: Template | None) -> None:
    rows: list[tuple[str, Item, Handoff, list[str]]] = [
        ("gsm8k", SUM, "reasoning", ["What is 9 * 2?", "9 * 2 = 18."]),
        ("gsm8k", SUM, "prompt", ["What is 9 * 2?"]),
        ("gsm8k", DERIVED, "reasoning", ["Bo's code is 9 * 2.\nWhat is Bo's code?", "9 * 2 = 18."]),
        ("relay", FACT, "prompt", ["Bo's door code is 482."]),
        ("arc", PICK, "prompt", ["Which is liquid?\nA. ice\nB. rain", "The correct answer is"]),
    ]
    for name, item, handoff, parts in rows:
        prompt = render(get_task(name), item, handoff, chat)
        found = [prompt.source[begin:end] for begin, end in prompt.shared]
        assert [part.removesuffix(":").strip() for part in found] == [part.strip() for part in parts]
        assert prompt.shared == tuple(sorted(prompt.shared)) and (chat is None) == (prompt.shared[0][0] == 0)
    text = render(get_task("text:README.md"), Item("t", "", "", private="Some text."), "prompt", chat)
    assert text.shared == ((0, len("Some text.")),)


def test_relay_without_template() -> None:
    prompt = render(get_task("relay"), FACT, "prompt", None)
    asked = "\nWhat is Bo's door code?\nAnswer:"
    assert prompt == Prompt("Bo's door code is 482.", asked, asked[1:], " 482", ("\n",))
    assert render(get_task("relay"), FACT, "reasoning", None) == prompt


def test_arithmetic_without_template() -> None:
    prompt = render(get_task("arithmetic"), CHAIN, "prompt", None)
    assert prompt == Prompt(CHAIN.question, "\nh=", CHAIN.question + "\nh=", "6", ("\n",))
    assert render(get_task("arithmetic"), CHAIN, "reasoning", None) == prompt


@pytest.mark.parametrize("chat", [template, closing_template])
def test_private_text_with_template(chat: Template) -> None:
    prompt = render(get_task("relay"), FACT, "prompt", chat)
    assert prompt.source == f"{USER}Bo's door code is 482."
    assert prompt.query == f"\nWhat is Bo's door code?{ASSISTANT}Answer:"
    assert prompt.alone == f"{USER}What is Bo's door code?{ASSISTANT}Answer:"
    assert prompt.target == " 482"


def test_prompt_handoff_leaves_the_cue_to_the_student() -> None:
    raw, chat = (render(get_task("gsm8k"), SUM, "prompt", t) for t in (None, template))
    assert (raw.source, raw.query) == ("What is 9 * 2?", "\nThe final answer is:")
    assert (chat.source, chat.query) == (f"{USER}What is 9 * 2?{ASSISTANT}", "The final answer is:")
    assert raw.target == chat.target == " 18"


def test_a_letter_task_leaves_one_character_to_the_student() -> None:
    asked = "Which is liquid?\nA. ice\nB. rain"
    raw, chat = (render(get_task("arc"), PICK, "prompt", t) for t in (None, template))
    assert (raw.source, raw.query) == (f"{asked}\nThe correct answer is", ":")
    assert (chat.source, chat.query) == (f"{USER}{asked}{ASSISTANT}The correct answer is", ":")
    assert raw.choices == (" A", " B")
    assert raw.target == " B"


def test_reasoning_handoff() -> None:
    raw, chat = (render(get_task("gsm8k"), SUM, "reasoning", t) for t in (None, template))
    assert raw.source == "What is 9 * 2?\n9 * 2 = 18."
    assert chat.source == f"{USER}What is 9 * 2?{ASSISTANT}9 * 2 = 18."
    assert raw.query == chat.query == "\nThe final answer is:"
    assert chat.alone == f"{USER}What is 9 * 2?{ASSISTANT}The final answer is:"


def test_given_reasoning_replaces_the_gold_one() -> None:
    written = render(get_task("arc"), PICK, "reasoning", template, reasoning="Rain is water.\n")
    assert written.source.endswith(f"{ASSISTANT}Rain is water.")
    assert written.query == "\nThe correct answer is:"


@pytest.mark.parametrize(("name", "item"), [("gsm8k", SUM), ("arc", PICK), ("gsm8k", DERIVED)])
@pytest.mark.parametrize("chat", [None, template])
def test_an_empty_thought_hands_over_the_prompt(name: str, item: Item, chat: Template | None) -> None:
    task = get_task(name)
    assert render(task, item, "reasoning", chat, reasoning=" \n") == render(task, item, "prompt", chat)


@pytest.mark.parametrize(
    ("thought", "kept"),
    [
        ("He sold 48/2 = 24 in May.\nHe sold 48+24 = 72.", "He sold 48/2 = 24 in May."),
        ("a = 3.\n\nb = 2a. So b = 6.\n \nHence 9.\n\n", "a = 3.\n\nb = 2a. So b = 6."),
        ("Two at $1.50 are $3. Three more are $9! So 12.", "Two at $1.50 are $3. Three more are $9!"),
        ("9 * 2 = 18.\n9 * 2 = 18.", "9 * 2 = 18."),
        ("9 * 2 = 18.", ""),
        ("", ""),
    ],
)
def test_the_last_step_is_a_line_or_else_a_sentence(thought: str, kept: str) -> None:
    assert without_last_step(thought) == kept


STEPS = Item("t", "How many?", "72", reasoning="48/2 = 24 in May.\n48+24 = 72.")


@pytest.mark.parametrize("chat", [None, template])
def test_a_cut_reasoning_is_handed_over_without_its_result_and_with_the_question_for_it(chat: Template | None) -> None:
    whole, cut = (render(get_task("gsm8k"), STEPS, "reasoning", chat, cut=cut) for cut in (False, True))
    asked = "\nThe final answer is"
    assert cut.source.endswith(f"48/2 = 24 in May.{asked}")
    assert cut.source.removesuffix(asked) == whole.source.removesuffix("\n48+24 = 72.")
    assert (cut.query, whole.query) == (":", f"{asked}:")
    assert render(get_task("gsm8k-cut"), STEPS, "reasoning", chat) == cut
    assert [cut.source[start:end] for start, end in cut.shared[-2:]] == ["48/2 = 24 in May.", asked.strip()]
    assert (cut.alone, cut.target) == (whole.alone, whole.target)
    assert (whole.reasoning, cut.reasoning) == (STEPS.reasoning, "48/2 = 24 in May.")
    written = render(get_task("gsm8k"), SUM, "reasoning", chat, "First this. Then that.", cut=True)
    assert written.reasoning == "First this."


@pytest.mark.parametrize("item", [SUM, DERIVED])
@pytest.mark.parametrize("chat", [None, template])
def test_a_single_step_leaves_the_prompt(item: Item, chat: Template | None) -> None:
    cut = render(get_task("gsm8k"), item, "reasoning", chat, cut=True)
    assert cut == render(get_task("gsm8k"), item, "prompt", chat)
    assert cut.reasoning == ""
    with pytest.raises(DataError, match="no reasoning"):
        render(get_task("gsm8k"), Item("s", SUM.question, SUM.answer), "reasoning", chat, cut=True)


def test_reasoning_about_private_text_follows_the_question() -> None:
    raw, chat = (render(get_task("gsm8k"), DERIVED, "reasoning", t) for t in (None, template))
    assert raw.source == "Bo's code is 9 * 2.\nWhat is Bo's code?\n9 * 2 = 18."
    assert chat.source == f"{USER}Bo's code is 9 * 2.\nWhat is Bo's code?{ASSISTANT}9 * 2 = 18."
    assert raw.query == chat.query == "\nThe final answer is:"
    assert raw.alone == "What is Bo's code?\nThe final answer is:"
    written = render(get_task("gsm8k"), DERIVED, "reasoning", reasoning="Twice nine.")
    assert written.source.endswith("\nWhat is Bo's code?\nTwice nine.")
    assert render(get_task("gsm8k"), DERIVED, "prompt").source == DERIVED.private


def test_built_in_items_take_no_reasoning() -> None:
    assert not takes_reasoning(CHAIN, "reasoning")
    assert render(get_task("arithmetic"), CHAIN, "reasoning", None, "k is 3.").source == CHAIN.question
    assert all(takes_reasoning(item, "reasoning") for item in (SUM, PICK, FACT))
    assert not takes_reasoning(SUM, "prompt")


def test_reasoning_that_is_missing_is_an_error() -> None:
    bare = Item("s", SUM.question, SUM.answer)
    with pytest.raises(DataError, match=r"s: the item has no reasoning.*data.handoff"):
        render(get_task("gsm8k"), bare, "reasoning", None)


def test_a_task_without_reasoning_of_its_own_hands_over_its_prompt() -> None:
    assert render(get_task("arc"), PICK, "reasoning", None) == render(get_task("arc"), PICK, "prompt", None)
    assert render(get_task("arc"), PICK, "reasoning", None).reasoning is None
    assert "Rain is wet." in render(get_task("arc"), PICK, "reasoning", None, "Rain is wet.").source


ITEMS = {"relay": FACT, "arithmetic": CHAIN, "gsm8k": SUM, "math": SUM, "arc": PICK, "mmlu": PICK}


@pytest.mark.parametrize(("name", "handoff", "chat"), list(product(ITEMS, ("prompt", "reasoning"), (None, template))))
def test_invariants_of_every_rendering(name: str, handoff: Handoff, chat: Template | None) -> None:
    item = ITEMS[name]
    if handoff == "reasoning" and item is PICK:
        item = Item("p", PICK.question, PICK.answer, reasoning="Rain is water.", choices=PICK.choices)
    prompt = render(get_task(name), item, handoff, chat)
    assert prompt.query
    assert prompt.source
    for text in (prompt.source, prompt.query, prompt.alone):
        assert not text.endswith(" ")
        assert "\n\n" not in text
    for secret in filter(None, (item.private, item.reasoning)):
        assert secret not in prompt.query + prompt.alone
    assert item.question in prompt.alone
    assert item.question in prompt.source + prompt.query
    if not item.private and handoff == "prompt":
        assert prompt.source + prompt.query == prompt.alone
    if prompt.choices:
        assert prompt.target in prompt.choices


def test_the_target_is_parsed_as_the_gold_answer() -> None:
    for name, item in ITEMS.items():
        prompt = render(get_task(name), item, "prompt", None)
        assert get_task(name).parse(prompt.target + "\n") == item.answer


def test_a_template_that_rewrites_the_user_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.chat_template"):
        render(get_task("gsm8k"), SUM, "prompt", lambda user, earlier=(): (user.upper(), ""))


def test_user_text_that_also_stands_in_the_header() -> None:
    item = Item("x", "assistant", "1")
    prompt = render(get_task("gsm8k"), item, "prompt", template)
    assert prompt.source == f"{USER}assistant{ASSISTANT}"


@pytest.mark.parametrize("chat", [None, template])
def test_the_baseline_shows_examples_and_stops(chat: Template | None) -> None:
    prompt = baseline_prompt(get_task("gsm8k"), SUM, chat)
    assert prompt.alone == prompt.source + prompt.query
    assert prompt.alone.count("\nThe final answer is: ") == 3
    if chat is None:
        assert prompt.alone.count("Question:") == 4
        assert prompt.alone.endswith("Question: What is 9 * 2?\nAnswer:")
    else:  # the examples are the model's own earlier turns
        assert prompt.alone.count(ASSISTANT) == 4
        assert prompt.alone.endswith(f"\n\nWhat is 9 * 2?{ASSISTANT}")
    assert prompt.stop == BASELINE_STOP
    assert SUM.reasoning not in prompt.alone


def test_the_examples_end_in_their_own_answers() -> None:
    for task in REGISTRY.values():
        for example in task.few_shot:
            written = f"{example.rationale}{task.cue} {example.answer}"
            assert task.form.same(task.parse(written, cued=False) or "", example.answer)
            assert task.form.same(task.parse(example.rationale, cued=False) or "", example.answer)


def test_the_baseline_of_other_tasks_answers_directly() -> None:
    pick = baseline_prompt(get_task("arc"), PICK)
    assert pick.alone == "Which is liquid?\nA. ice\nB. rain\nThe correct answer is:"
    assert pick.choices == (" A", " B")
    fact = baseline_prompt(get_task("relay"), FACT)
    assert fact.alone == "Bo's door code is 482.\nWhat is Bo's door code?\nAnswer:"
    own = Item("o", "Where?", "Rome", private="He is in Rome.")
    shown = baseline_prompt(get_task("gsm8k"), own).alone
    assert shown.endswith("Question: He is in Rome.\nWhere?\nAnswer:")


@pytest.mark.parametrize("chat", [None, template])
def test_thinking_takes_the_baselines_prompt_and_the_tasks_own_cue(chat: Template | None) -> None:
    assert thinking_prompt(get_task("gsm8k"), SUM, chat) == baseline_prompt(get_task("gsm8k"), SUM, chat)
    pick = thinking_prompt(get_task("arc"), PICK, chat)
    assert 'end with one line: "The correct answer is: ..."' in pick.alone
    assert "Which is liquid?\nA. ice\nB. rain" in pick.alone
    assert DERIVED.private in thinking_prompt(get_task("gsm8k"), DERIVED, chat).alone


@pytest.mark.parametrize(
    ("thought", "left"),
    [
        ("Half is 4.\nSo\n\\[ 4 + 1 = \\boxed{5} \\]", "Half is 4.\nSo"),
        ("Half is 4.\n\\[\n4 + 1 = \\boxed{5}\n\\]", "Half is 4.\n\\["),
        (
            "Half is 4.\n\\begin{align*}\na &= 4 \\\\\n&= \\boxed{5}.\n\\end{align*}",
            "Half is 4.\n\\begin{align*}\na &= 4 \\\\",
        ),
        ("Half is 4. The answer is $\\boxed{5}$.\n[asy]\ndraw(a);\n[/asy]", "Half is 4."),
    ],
)
def test_a_boxed_answer_goes_with_the_last_step(thought: str, left: str) -> None:
    assert without_last_step(thought) == left
