"""How the core tells a person what it is doing, without knowing about terminals."""

from __future__ import annotations

from typing import Protocol


class Stopped(Exception):  # noqa: N818 - a wish, not an error
    """Work was left unfinished because a person asked to stop."""


class Progress(Protocol):
    """One named piece of work at a time: `start`, many `update`s, `finish`."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        """Work called `name` begins; it has `total` steps, of which `done` were done before."""
        ...

    def update(self, done: int, **figures: float | str) -> None:
        """`done` steps are behind us. Known figures: loss, tokens_per_second, memory_gib."""
        ...

    def note(self, text: str) -> None:
        """One line worth reading: a decision and its reason."""
        ...

    def finish(self) -> None:
        """The work begun by `start` is over."""
        ...

    def stop_requested(self) -> bool:
        """A person asked to stop: finish the step, save, return."""
        ...


class Silent:
    """Says nothing and never stops."""

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, **figures: float | str) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...

    def stop_requested(self) -> bool:
        return False
