"""Where a configuration comes from: TOML profiles, `--set` and flags, one over the other. No torch here.

Precedence, lowest first: defaults, the bridge's own metadata, profiles in order, `--set`, flags.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helmas_core.config import BridgeSection, Config
from helmas_core.errors import ConfigError, did_you_mean
from helmas_core.foreign import PROFILE, check_depth, read_text, why
from helmas_core.validation import validate

DEFAULT_PROFILE = "h200"
NESTED = 16  # tables and lists inside each other
_MODELS = {"teacher", "more_teachers", "student"}  # the keys that name them
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
_LONG_KEY = re.compile(rf"(?<![\w.\"'-])(?:{_PART}){{{NESTED}}}")


def profile_folder() -> Path:
    """`profiles/`: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "profiles"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "profiles"


def profile_names() -> list[str]:
    return sorted(path.stem for path in profile_folder().glob("*.toml"))


def find_profile(name: str) -> Path:
    """The file of a profile given by name or by path."""
    if name in profile_names():
        return profile_folder() / f"{name}.toml"
    path = Path(name).expanduser()
    if path.suffix == ".toml" or os.sep in name:
        if path.is_file():
            return path
        raise ConfigError("no such profile file", where=name, fix=f"shipped profiles: {', '.join(profile_names())}")
    raise ConfigError(f'unknown profile "{name}"', fix=did_you_mean(name, profile_names()))


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path, PROFILE))
    except (OSError, ValueError) as error:
        raise ConfigError(f"not readable as TOML: {why(error)}", where=str(path), fix="mend the file") from error


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document of no more than NESTED levels; ValueError for any other text.

    Tables and dotted keys are counted first: a reader of TOML takes the square of their parts.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {NESTED} parts")
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"more than {NESTED} levels deep") from error
    check_depth(tree, NESTED)
    return tree


def parse_set(assignment: str) -> dict[str, Any]:
    """`a.b=value` as a nested dict; the value is TOML, or else a plain string."""
    key, separator, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts) or len(parts) > NESTED:
        raise ConfigError(f'cannot read "{assignment}"', where="--set", fix="write --set section.key=value")
    try:
        value: Any = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    for part in reversed(parts):
        value = {part: value}
    return value


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`high` over `low`, table by table; lists and values are replaced whole."""
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load_config(
    profiles: Sequence[str] = (),
    sets: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    over: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults < `base` < `profiles` < `over` < `sets`, validated. Without `base`, no profile means `h200`."""
    names = list(profiles) or ([] if base is not None else [DEFAULT_PROFILE])
    return layered(base or {}, [*(read_toml(find_profile(name)) for name in names), over or {}, *map(parse_set, sets)])


def layered(base: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> Config:
    """Each of `layers` over those before it, the first over `base`, validated."""
    tree = dict(base)
    for layer in layers:
        tree = merge(_without_foreign_options(_without_foreign_shapes(tree, layer), layer), layer)
    return validate(Config, tree)


def _without_foreign_shapes(tree: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Shipped shapes belong to the models they came with: drop them when `layer` names others."""
    named, before = layer.get("pair"), tree.get("pair")
    if not (isinstance(named, dict) and isinstance(before, dict) and _MODELS & named.keys()):
        return tree
    return {**tree, "pair": {key: value for key, value in before.items() if key != "geometry"}}


def _without_foreign_options(tree: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options and mode are its own: drop them when `layer` names another method."""
    named, before = layer.get("bridge"), tree.get("bridge")
    if not (isinstance(named, dict) and isinstance(before, dict) and "method" in named):
        return tree
    default = BridgeSection().method
    if named["method"] == before.get("method", default):
        return tree
    return {**tree, "bridge": {key: value for key, value in before.items() if key.startswith("student")}}
