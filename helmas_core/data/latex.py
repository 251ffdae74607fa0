r"""Mathematical answers as text: the box they come in, one spelling for each, and when two of them agree."""

from __future__ import annotations

import re
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_UNIT = re.compile(r"(?<=[\d})])\s*\\(?:text|textrm|mbox|mathrm)\s*\{\s*[^{}]*\}(?:\^\{?\d\}?)?$")
_WRAPPED = re.compile(r"\\(?:text|textrm|textbf|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_SPELLINGS = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(?:left|right|displaystyle)(?![A-Za-z])", ""),
        (r"\\[!,;:>]|\\ |~|\\q?quad(?![A-Za-z])", " "),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|°", ""),
        (r"\\?[%$]", ""),
        (r"−", "-"),
        (r"\\frac\s*([0-9A-Za-z])\s*([0-9A-Za-z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9A-Za-z])\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"\s+", " "),
    )
]
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_INTEGER = r"\d{1,100}"
_DECIMAL = re.compile(rf"(-?)\s*((?:{_INTEGER})?(?:\.\d{{0,100}})?)")
_RATIO = re.compile(
    rf"(-?)\s*(?:\\frac\s*\{{\s*(-?{_INTEGER})\s*\}}\s*\{{\s*({_INTEGER})\s*\}}|({_INTEGER})\s*/\s*({_INTEGER}))"
)
_ASSIGNED = re.compile(r"[A-Za-z](?:_?\{?\d\}?|\([A-Za-z]\))?(?:=|\\in(?![A-Za-z]))([^=]+)")
_COUNTED = re.compile(r"(-?[\d.,]*\d)(?:\s+[A-Za-z]{2,})+")


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` (or `\fbox`, or `\boxed 5`) holds; None without one, or if it never closes."""
    found = list(_BOX.finditer(text))
    if not found:
        return None
    rest = text[found[-1].end() :]
    if not rest.startswith("{"):
        word = re.match(r"[^\s$]+", rest)
        return word.group() if word else None
    depth = 0
    for index, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:index]
    return None


def tidy(text: str) -> str:
    """One readable spelling: no dollar signs, degree or percent signs, sizing commands, trailing units or full stop."""
    text = text.replace("{,}", ",").replace(",\\!", ",").strip()
    text = re.sub(r"^(?:\\\(|\\\[|\$+)|(?:\\\)|\\\]|\$+)\s*\.?$", "", text).strip()
    for pattern, new in _SPELLINGS:
        text = pattern.sub(new, text)
    text = _UNIT.sub("", text.strip().rstrip(".;, "))
    text = _WRAPPED.sub(r"\1", text).strip()
    whole = _THOUSANDS.fullmatch(text.lstrip("-").split(".")[0])
    return text.replace(",", "").replace(" ", "") if whole else text


def value(text: str) -> Fraction | None:
    r"""`text` as an exact number, if all of it is one: 1,234  -3  .5  18.00  3/4  \frac{3}{4}."""
    text = tidy(text)
    if ratio := _RATIO.fullmatch(text):
        sign, upper, lower, above, below = ratio.groups()
        if not int(lower or below):
            return None
        return Fraction(int(upper or above), int(lower or below)) * (-1 if sign else 1)
    decimal = _DECIMAL.fullmatch(text)
    if not decimal or not re.search(r"\d", text):
        return None
    return Fraction(decimal[2].rstrip(".")) * (-1 if decimal[1] else 1)


def spell(number: Fraction) -> str:
    """The shortest exact form: an integer, a finite decimal, or p/q."""
    below = number.denominator
    places = next((n for n in range(below.bit_length() + 1) if 10**n % below == 0), None)
    if places is None or places == 0:
        return str(number)
    digits = str(abs(number.numerator) * 10**places // below).rjust(places + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _key(text: str) -> str:
    """What two spellings of one answer share: no spaces, no `x =`, no counted noun, no case in plain words."""
    text = tidy(text)
    counted = _COUNTED.fullmatch(text)
    text = (counted[1] if counted else text).replace(" ", "")
    assigned = _ASSIGNED.fullmatch(text)
    text = assigned[1] if assigned else text
    return text.casefold() if text.isalpha() and len(text) > 1 else text


def _split(text: str) -> list[str]:
    """`text` cut at the commas outside all brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _same_parts(one: str, two: str) -> bool:
    if one[0] in "([" and one[-1] in ")]":
        ones, twos = _split(one[1:-1]), _split(two[1:-1])
        alike = one[0] + one[-1] == two[0] + two[-1] and len(ones) == len(twos) > 1
        return alike and all(map(same_math, ones, twos))
    ones, twos = _split(one), _split(two)
    return len(ones) == len(twos) > 1 and _same_in_any_order(ones, twos)


def _same_in_any_order(ones: list[str], twos: list[str]) -> bool:
    """A bare list names solutions, whose order means nothing."""
    for part in ones:
        match = next((other for other in twos if same_math(part, other)), None)
        if match is None:
            return False
        twos.remove(match)
    return True


def same_math(one: str, two: str) -> bool:
    """Whether two answers agree: as text, as exact numbers, or part by part for tuples and lists."""
    one, two = _key(one), _key(two)
    if not one or not two:
        return False
    if one == two:
        return True
    numbers = value(one), value(two)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _same_parts(one, two)
