"""Tokens and passwords, kept out of what is written down and shown. No torch here.

Hidden are: what an environment variable with a telling name holds, credentials in URLs, values of telling names in
URLs, flags, headers and assignments, and tokens of known hubs by their form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

STARS = "***"
_SHORTEST = 8  # characters of a secret in the environment: shorter ones stand in ordinary words
_NAME = r"(?:api|access|auth|secret|private)[-_]?key|token|secrets?|passw(?:or)?ds?|passphrase|credentials?|signature"
_TELLING = re.compile(rf"(?:^|[-_.])(?:{_NAME})$|^(?:{_NAME})[-_]", re.IGNORECASE)
_FORMS = (
    (re.compile(r"(?<=://)[^/\s@\"']+(?=@)"), STARS),  # https://user:password@host
    (re.compile(rf"(?i)([?&;](?:[\w.-]*[-_])?(?:{_NAME}|key|sig|auth)=)[^&#\s\"'<>]+"), rf"\1{STARS}"),
    (re.compile(rf"(?i)((?<![a-z])(?:{_NAME})=[\"']?)[^\s\"',;&]+"), rf"\1{STARS}"),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/-]{8,}=*"), rf"\1{STARS}"),
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA)[\w-]{12,}"), STARS),
)
_HINT = re.compile(rf"(?i)@|{_NAME}|key|sig|auth|bearer|basic|hf_|gh[pousr]_|github_pat|glpat|sk-|xox|akia")
Tree = TypeVar("Tree")


def hidden(tree: Tree) -> Tree:
    """`tree`, a text or JSON value, with stars in place of secrets; keys stay."""
    return _hidden(tree, known_secrets())


def hidden_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with stars in place of secrets, those after a flag of a telling name too."""
    flags = ["", *arguments]
    told = [flag.startswith("-") and "=" not in flag and is_telling(flag) for flag in flags]
    return [STARS if secret else hidden(one) for secret, one in zip(told, arguments, strict=False)]


def is_telling(name: str) -> bool:
    """Whether a variable or flag of this name holds a secret: HF_TOKEN, --api-key; not tokens_per_second."""
    return _TELLING.search(name.lstrip("-")) is not None


def known_secrets() -> list[str]:
    """What the environment's secrets are, longest first; paths, counts and short words are none."""
    found = {value for name, value in os.environ.items() if is_telling(name) and len(value) >= _SHORTEST}
    return sorted((one for one in found if not one.isdecimal() and not one.startswith(("/", "."))), key=len)[::-1]


def _hidden(tree: Any, known: Iterable[str]) -> Any:
    if isinstance(tree, str):
        return _hidden_text(tree, known)
    if isinstance(tree, Mapping):
        return {key: _hidden(inner, known) for key, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return [_hidden(inner, known) for inner in tree]
    return tree


def _hidden_text(text: str, known: Iterable[str]) -> str:
    for secret in known:
        text = text.replace(secret, STARS)
    if _HINT.search(text):
        for form, stars in _FORMS:
            text = form.sub(stars, text)
    return text
