"""Tables of what can be set: every key of a profile, every option of a method, every profile."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from helmas_cli.commands.profiles import about, to_toml
from helmas_core import config
from helmas_core.layering import find_profile, profile_names, read_toml

TABLES = {
    "[pair]": config.PairConfig,
    "[pair.geometry.teacher] and [pair.geometry.student]": config.GeometryConfig,
    "[bridge]": config.BridgeSection,
    "[train]": config.TrainConfig,
    "[[train.stages]]": config.StageConfig,
    "[data]": config.DataConfig,
    "[eval]": config.EvalConfig,
    "[hardware]": config.HardwareConfig,
}
KINDS = {bool: "true or false", str: "text", int: "integer", float: "number"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def configuration() -> str:
    return "\n\n".join(f"### {name}\n{table(model)}" for name, model in TABLES.items())


def options(method: str) -> str:
    """What a method can do, and its own keys of `[bridge]`."""
    from helmas_core.bridges.registry import METHODS

    made = METHODS[method]
    modes, losses = (", ".join(f"`{one}`" for one in names) for names in (made.modes, sorted(made.losses)))
    return f"Modes: {modes}. Losses: {losses}.\n\n{table(made.Options)}"


def profiles() -> str:
    rows = ["| profile | teacher → student | for |", "|---|---|---|"]
    for name in profile_names():
        path = find_profile(name)
        pair = read_toml(path).get("pair")
        models = f"{pair['teacher']} → {pair['student']}" if pair else "any"
        rows.append(f"| `{name}` | {models} | {about(path)} |")
    return "\n".join(rows)


def table(model: type[BaseModel]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        cells = (f"`{key}`", kind(field.annotation, field.metadata), default(field), field.description or "")
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """A type in words, with its bounds."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [one for found in inside[1:] for one in (found.metadata if isinstance(found, FieldInfo) else [found])]
        return kind(inside[0], bounds)
    if origin in (Union, UnionType):
        return " or ".join(kind(one, metadata) for one in inside if one is not NoneType)
    if origin is Literal:
        return ", ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in inside)
    if origin is tuple:
        return f"list of {kind(inside[0])}"
    if origin is dict:
        return f"table: {kind(inside[0])} = {kind(inside[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "tables, below"
    return " ".join([KINDS.get(annotation, "path"), *_bounds(metadata)])


def _bounds(metadata: list[Any] | tuple[Any, ...]) -> list[str]:
    limits = [(name, getattr(one, name, None)) for one in metadata for name in BOUNDS]
    said = [f"{BOUNDS[name]} {limit:g}" for name, limit in limits if isinstance(limit, int | float)]
    return [" and ".join(said)] if said else []


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if value is None:
        return "–"
    if isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
        return ", ".join(f"{one.name}: {one.steps} steps" for one in value)
    written = to_toml({"it": list(value) if isinstance(value, tuple) else value})
    return f"`{written.removeprefix('it = ').strip()}`"
