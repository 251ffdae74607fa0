"""Golden tests of the answer parsers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helmas_core.data.latex import boxed, spell, tidy, value
from helmas_core.data.parse import parse_letter, parse_math, parse_number, parse_text, parse_whole, same_answer
from helmas_core.data.tasks import get_task

Parser = Callable[[str, bool], str | None]
Golden = dict[Parser, list[tuple[str, str | None]]]

AFTER_A_CUE: Golden = {
    parse_number: [
        (" 18", "18"),
        (" $18 per day, not 20", "18"),
        (" 1,234", "1234"),
        (" $1,234,567.50.", "1234567.5"),
        (" -3", "-3"),
        (" −3", "-3"),
        (" −3 degrees", "-3"),
        (" -$3", "-3"),
        (" $-3", "-3"),
        (" 18.00", "18"),
        (" .5", "0.5"),
        (" 0.25 liters", "0.25"),
        (" 50%", "50"),
        (" 50\\%", "50"),
        (" \\$18", "18"),
        (" **18**", "18"),
        (" \\boxed{18}", "18"),
        (" $\\boxed{1,\\!080}$", "1080"),
        (" 10{,}080", "10080"),
        (" \\frac{1}{4}", "0.25"),
        (" 1/3", "1/3"),
        (" 2 + 3 = 5", "5"),
        (" 7:30", "7"),
        ("\n\n 9\n10", "9"),
        (" eighteen", None),
        (" Q3", None),
        (" 1/0", "1"),
        ("", None),
    ],
    parse_letter: [
        (" C", "C"),
        (" (C)", "C"),
        (" C. Rain", "C"),
        (" A) Frost", "A"),
        (" A", "A"),
        (" A is right", "A"),
        (" b", "B"),
        (" **D**", "D"),
        (" $\\boxed{\\text{B}}$", "B"),
        (" option B", "B"),
        (" A planet that turns", None),
        (" Because of rain", None),
        (" Carbon", None),
        (" A's", None),
        (" vitamin C", None),
        (" F", None),
        ("", None),
    ],
}
IN_FREE_TEXT: Golden = {
    parse_number: [
        ("16 - 3 - 4 = 9 eggs. 9 * 2 = 18.\nThe final answer is: 18", "18"),
        ("The answer is 5. Wait, 5 + 3 = 8.\nThe final answer is: 8 dollars. Checked in 2 ways.", "8"),
        ("She makes 9 * 2 = 18.\n#### 18", "18"),
        ("So \\boxed{42} marbles, out of 99.", "42"),
        ("**Final Answer:** $1,200", "1200"),
        ("The final answer is:\n\\[ \\boxed{7} \\]", "7"),
        ("The final answer is: $x = 5$", "5"),
        ("The final answer is unclear: we have 3 and 4", "3"),
        ("5-3 leaves 2", "2"),
        ("It is 8-3", "3"),
        ("He owes -3", "-3"),
        ("- 3 apples", "3"),
        ("A1 B2", None),
        ("I do not know.", None),
        ("9" * 300, None),
    ],
    parse_math: [
        ("thus $\\boxed{\\dfrac{3}{4}}$.", "\\frac{3}{4}"),
        ("\\boxed{1} and then \\boxed{\\left(3, \\frac\\pi2\\right)}", "(3, \\frac\\pi2)"),
        ("\\boxed{x^{2}+{1}}", "x^{2}+{1}"),
        ("\\fbox{5}", "5"),
        ("\\boxed 5$", "5"),
        ("\\boxed{10,\\!080}", "10080"),
        ("\\boxed{\\text{Evelyn}}", "Evelyn"),
        ("\\boxed{90^\\circ}", "90"),
        ("\\boxed{12\\text{ cm}^2}", "12"),
        ("The final answer is: $\\frac12$. I hope it is correct.", "\\frac{1}{2}"),
        ("so $a = 3$ and $b = 2\\sqrt3$ at last", "2\\sqrt{3}"),
        ("only words and 7", "7"),
        ("\\boxed{unclosed", None),
        ("no idea", None),
    ],
    parse_letter: [
        ("A planet is big. The correct answer is: C", "C"),
        ("The answer is A. Then again, the answer is (D).", "D"),
        ("A bird cannot be meant, so option B", "B"),
        ("It must be (B).", "B"),
        ("C. Rain", "C"),
        ("It is (A) or (B)", None),
        ("A cat sat on A mat", None),
        ("CABBAGE", None),
    ],
}


def cases(golden: Golden) -> list[tuple[Parser, str, str | None]]:
    return [(parser, text, answer) for parser, table in golden.items() for text, answer in table]


@pytest.mark.parametrize(("parser", "text", "answer"), cases(AFTER_A_CUE))
def test_an_answer_after_a_cue(parser: Parser, text: str, answer: str | None) -> None:
    assert parser(text, True) == answer


@pytest.mark.parametrize(("parser", "text", "answer"), cases(IN_FREE_TEXT))
def test_an_answer_in_free_text(parser: Parser, text: str, answer: str | None) -> None:
    assert parser(text, False) == answer


def test_mathematics_after_a_cue_is_the_first_line() -> None:
    assert parse_math(" $2\\sqrt{13}$.\nHence 5", cued=True) == "2\\sqrt{13}"
    assert parse_math(" \n", cued=True) is None


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("\\frac{3}{4}", "0.75", True),
        ("\\frac{3}{4}", "\\tfrac 34", True),
        ("3/4", "\\frac{6}{8}", True),
        ("-\\frac{1}{2}", "\\frac{-1}{2}", True),
        ("\\frac{1}{3}", "0.33", False),
        ("1,000", "1000", True),
        ("(3, \\frac{1}{2})", "\\left(3,0.5\\right)", True),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "[1,2]", False),
        ("(1,2)", "(1,2,3)", False),
        ("1, -2", "-2,1", True),
        ("1,1", "1,2", False),
        ("x = 5", "5", True),
        ("x \\in [1,2]", "[1, 2]", True),
        ("18 dollars", "18", True),
        ("\\text{Even}", "even", True),
        ("a", "A", False),
        ("2\\sqrt{13}", "2\\sqrt 13", False),
        ("x+1", "x - 1", False),
        ("", "", False),
    ],
)
def test_mathematical_equality(one: str, two: str, same: bool) -> None:
    task = get_task("math")
    assert same_answer(task, one, two) is same
    assert same_answer(task, two, one) is same


def test_text_takes_the_answering_line() -> None:
    assert parse_text(" Paris.\nIt lies on the Seine", cued=True) == "Paris"
    assert parse_text("Let me think.\nThe final answer is: Paris\nDone") == "Paris"
    assert parse_text("first\nlast") == "last"
    assert parse_text(" \n", cued=True) is None
    assert parse_whole(" one\ntwo ") == "one\ntwo"
    assert parse_whole(" ") is None


@pytest.mark.parametrize(
    ("predicted", "gold", "same"),
    [
        ("18.0", "18", True),
        ("1,800 euros", "1800", True),
        ("paris", "Paris", True),
        ("“The  Hague”", "the hague", True),
        ("12 dogs", "12 cats", False),
        ("eighteen", "18", False),
        (None, "18", False),
    ],
)
def test_own_files_compare_numbers_as_numbers(tmp_path: Path, predicted: str | None, gold: str, same: bool) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("{}")
    assert same_answer(get_task(f"jsonl:{path}"), predicted, gold) is same


def test_an_unparsed_answer_is_wrong_for_every_task() -> None:
    for name in ("gsm8k", "math", "arc", "relay"):
        assert not same_answer(get_task(name), None, "A")
    assert same_answer(get_task("gsm8k"), "18", "18.00")
    assert not same_answer(get_task("gsm8k"), "18", "19")
    assert same_answer(get_task("arc"), "C", "C")
    assert not same_answer(get_task("arc"), "C", "D")


def test_exact_numbers_survive_spelling() -> None:
    for text in ("0", "-0.05", "12.5", "1/3", "-7/9", "1000000", "0.125"):
        exact = value(text)
        assert exact is not None
        assert spell(exact) == text
    assert value("1,2") is None
    assert value("") is None
    assert value("-") is None
    assert value(".") is None
    assert boxed("plain") is None
    assert tidy("$ 3 $.") == "3"
