"""What a comparison compares: one training, changed in one respect at a time, all else equal. No torch here.

A preset is a TOML file: `[variants.NAME]` holds what NAME changes, keyed as in a profile; `[base]` holds what all of
them share, over the profiles that are given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helmas_core.config import Config
from helmas_core.errors import ConfigError, did_you_mean
from helmas_core.layering import find_profile, layered, profile_folder, profile_names, read_toml

_LEARNING = ("learning_rate", "student_learning_rate", "warmup", "weight_decay", "stages")
_NAME = re.compile(r"[\w][\w.+-]*")


@dataclass(frozen=True)
class Variant:
    """A name and what it changes, nested as in a profile."""

    name: str
    changes: Mapping[str, Any]

    def config(self, base: Config, steps: int | None = None) -> Config:
        """`base` with the changes, trained for `steps` steps where they are given."""
        budget = {"train": {"steps": steps}} if steps else {}
        return layered(base.model_dump(exclude_unset=True), [self.changes, budget])


@dataclass(frozen=True)
class Preset:
    """A named comparison."""

    base: Mapping[str, Any]
    variants: tuple[Variant, ...]


def preset_folder() -> Path:
    return profile_folder() / "comparisons"


def preset_names() -> list[str]:
    return sorted(path.stem for path in preset_folder().glob("*.toml"))


def find_preset(name: str) -> Path:
    """The file of a preset given by name or by path; ConfigError where there is none."""
    if name in preset_names():
        return preset_folder() / f"{name}.toml"
    path = Path(name).expanduser()
    if path.suffix == ".toml" and path.is_file():
        return path
    raise ConfigError(f'no preset "{name}"', where="--preset", fix=did_you_mean(name, preset_names()))


def read_preset(name: str) -> Preset:
    """The preset's shared keys and its variants; ConfigError for a file of another form."""
    path = find_preset(name)
    tree = read_toml(path)
    variants, base = tree.pop("variants", {}), tree.pop("base", {})
    tables = (
        isinstance(base, dict) and isinstance(variants, dict) and all(isinstance(v, dict) for v in variants.values())
    )
    if tree or not variants or not tables:
        raise ConfigError(
            "not a comparison", where=str(path), fix="write [variants.NAME] tables, and [base] if need be"
        )
    return Preset(base, tuple(Variant(_checked(name), changes) for name, changes in variants.items()))


def _checked(name: str) -> str:
    """A variant's name is its folder's."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f'"{name}" cannot name a folder', where="variants", fix="use letters, digits, -, + and .")
    return name


def of_methods(names: Sequence[str]) -> tuple[Variant, ...]:
    """A variant for each method, with the options and the learning that its own profile gives it, if it has one.

    Of such a profile the pair, the data and the batch are left out: all methods learn from the same.
    """
    if repeated := {name for name in names if list(names).count(name) > 1}:
        raise ConfigError(f"{min(repeated)} is named twice", where="--methods", fix="name each method once")
    return tuple(Variant(_checked(name), _changes(name)) for name in names)


def _changes(method: str) -> dict[str, Any]:
    if method not in profile_names():
        return {"bridge": {"method": method}}
    profile = read_toml(find_profile(method))
    learning = {key: value for key, value in profile.get("train", {}).items() if key in _LEARNING}
    return {"bridge": profile.get("bridge", {"method": method}), "train": learning}
