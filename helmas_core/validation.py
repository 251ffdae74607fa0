"""What is given, as a section of the configuration, or an error that names the key at fault. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from helmas_core.errors import ConfigError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 120  # characters of a wrong value


def validate(model: type[Model], tree: Mapping[str, Any], where: str = "") -> Model:
    """`tree` as `model`, or a ConfigError that names the first key at fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise _explain(model, error, where) from error


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    place = ".".join(filter(None, [where, *(part[:_SHOWN] for part in path)]))
    if first["type"] == "extra_forbidden":
        return ConfigError("unknown key", where=place, fix=did_you_mean(path[-1], _keys_at(model, path[:-1])))
    got = "" if first["type"] == "missing" else f", got {_seen(first['input'])}"
    return ConfigError(first["msg"] + got, where=place, fix="see `helmas profiles show`")


def _seen(value: Any) -> str:
    """A value as Python writes it, its beginning if that is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a huge number"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _keys_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        for candidate in (inner, *getattr(inner, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)
