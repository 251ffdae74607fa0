"""A conversation as data: its turns, its settings, and the file that it is saved to. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from helmas_core.config import Config, Positive, Section
from helmas_core.errors import ConfigError, DataError
from helmas_core.foreign import read_object, why
from helmas_core.json_files import write_text
from helmas_core.validation import validate

SCHEMA = 1
_NOT_OURS = "give a file that /save wrote"


class Settings(Section):
    """What a person may change while talking. `temperature` 0 is greedy; `seed` decides draws above it."""

    max_new_tokens: Positive = 400
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    reasoning_tokens: Positive = 320

    @classmethod
    def of(cls, config: Config) -> Settings:
        return cls(
            max_new_tokens=config.eval.baseline_tokens,
            seed=config.train.seed,
            reasoning_tokens=config.data.reasoning_tokens,
        )

    def changed(self, key: str, value: str) -> Settings:
        """These settings with `key` at `value`, as typed; ConfigError for an unknown key or a value out of range."""
        try:
            return validate(Settings, {**self.model_dump(), key: value})
        except ConfigError as error:
            fix = error.fix if key not in KEYS else f"for example /set {key} {getattr(Settings(), key)}"
            raise ConfigError(error.what, where=error.where, fix=fix) from error


KEYS = tuple(Settings.model_fields)


class Exchange(Section):
    """One question and its answer; of a stopped one the part that was written. `bridged`: over the bridge."""

    question: str
    answer: str
    bridged: bool
    stopped: bool = False


class Transcript(Section):
    """All that the next answer depends on, but for the models: `models` says which they were."""

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    kind: Literal["helmas-chat"] = "helmas-chat"
    system: str
    bridged: bool
    settings: Settings
    models: dict[str, str | None]
    turns: tuple[Exchange, ...]


def write_transcript(path: Path, transcript: Transcript) -> None:
    """Save to `path`. ConfigError rather than replace a file that is no saved conversation."""
    if path.exists() and not _is_ours(path):
        raise ConfigError("this file is no saved conversation, and is kept", where=str(path), fix="choose another name")
    write_text(path, transcript.model_dump_json(by_alias=True, indent=2) + "\n")


def read_transcript(path: Path) -> Transcript:
    """What `write_transcript` saved; DataError names the first thing that is wrong with any other file."""
    document = _document(path)
    if document.get("kind") != "helmas-chat":
        raise DataError("no saved conversation", where=str(path), fix=_NOT_OURS)
    if document.get("schema") != SCHEMA:
        what = f"schema {document.get('schema')}, this helmas reads {SCHEMA}"
        raise DataError(what, where=str(path), fix="use a matching helmas")
    try:
        return Transcript.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{place}: {first['msg']}", where=str(path), fix=_NOT_OURS) from error


def _document(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except OSError as error:
        raise DataError(f"cannot be read ({why(error)})", where=str(path), fix="check the path") from error
    except ValueError as error:
        raise DataError(why(error), where=str(path), fix=_NOT_OURS) from error


def _is_ours(path: Path) -> bool:
    try:
        return _document(path).get("kind") == "helmas-chat"
    except DataError:
        return False
