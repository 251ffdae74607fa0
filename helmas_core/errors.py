"""The errors that a person sees: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HelmasError(Exception):
    """Base of all our errors; the command line shows it as one line and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(": ".join(part for part in (where, what) if part) + (f" — {fix}" if fix else ""))


class ConfigError(HelmasError, ValueError):
    """A profile, key, flag or the machine does not allow what was asked."""

    exit_code = 2


class PairError(HelmasError, ValueError):
    """The two models cannot be loaded or bridged."""

    exit_code = 2


class DataError(HelmasError, ValueError):
    """A data set, split, file or line is not usable."""

    exit_code = 2


class CheckpointError(HelmasError, ValueError):
    """A bridge or checkpoint file is broken, foreign or belongs to another pair."""

    exit_code = 2


class CacheError(HelmasError):
    """A KV cache cannot be captured or injected as asked."""


class HubError(HelmasError):
    """The hub refuses what was asked, or holds something else."""


class UnreachableError(HubError):
    """There is no way to the hub from here."""


class TrainingError(HelmasError):
    """Training cannot go on."""


class WriteError(HelmasError, OSError):
    """A file or folder cannot be written: a full disk, a read-only folder, a missing permission."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The fix for a misspelt `word`: the nearest known one, or all of them."""
    known, word = sorted(known), word[:80]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known)}"
