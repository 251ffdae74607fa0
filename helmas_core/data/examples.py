"""Worked examples for the baseline's prompt: terse, so that an instruct model answers tersely too."""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    question: str
    rationale: str
    answer: str


WORD_PROBLEMS = (
    Example(
        "A ferry carries 14 cars on the lower deck and half as many on the upper deck. "
        "On each trip 5 of the cars are electric. How many cars on a trip are not electric?",
        "The upper deck carries 14 / 2 = 7 cars. Together that is 14 + 7 = 21 cars. Not electric: 21 - 5 = 16.",
        "16",
    ),
    Example(
        "Mirela paints 3 fence boards every 8 minutes. She has 45 boards to paint and stops for a 20-minute lunch. "
        "How many minutes pass until the fence is done?",
        "45 boards are 45 / 3 = 15 groups. They take 15 * 8 = 120 minutes. With lunch that is 120 + 20 = 140 minutes.",
        "140",
    ),
    Example(
        "A kettle costs $36. A shop takes 25% off and then adds $4 for delivery. How many dollars does the buyer pay?",
        "The discount is 36 * 0.25 = 9 dollars. The price falls to 36 - 9 = 27. With delivery it is 27 + 4 = 31.",
        "31",
    ),
)

MATHEMATICS = (
    Example(
        "What is the sum of the roots of $3x^2 - 7x + 1 = 0$?",
        r"For $ax^2 + bx + c = 0$ the roots add up to $-\frac{b}{a}$. Here that is $-\frac{-7}{3} = \frac{7}{3}$.",
        r"\frac{7}{3}",
    ),
    Example(
        "A right triangle has legs of length 4 and 6. How long is its hypotenuse?",
        r"$\sqrt{4^2 + 6^2} = \sqrt{52} = 2\sqrt{13}$.",
        r"2\sqrt{13}",
    ),
    Example(
        "In how many ways can 2 of 9 runners be chosen to carry the flag?",
        r"The order does not matter, so there are $\binom{9}{2} = \frac{9 \cdot 8}{2} = 36$ ways.",
        "36",
    ),
)
