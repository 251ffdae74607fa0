"""What the shell offers while a command is typed: names that are at hand, and never a reason to load a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer


def profiles(incomplete: str) -> list[str]:
    """The shipped profiles; a path is the shell's to complete."""
    from helmas_core.layering import profile_names

    return _starting(incomplete, profile_names())


def presets(incomplete: str) -> list[str]:
    from helmas_core.comparison.variants import preset_names

    return _starting(incomplete, preset_names())


def arms(incomplete: str) -> list[str]:
    from helmas_core.config import ARMS, CONTROLS

    return _listed(incomplete, ARMS + CONTROLS)


def datasets(incomplete: str) -> list[str]:
    """Tasks, channels, and the families that go on with a path or a name of their own."""
    from helmas_core.data.channels.registry import CHANNELS
    from helmas_core.data.tasks import FAMILIES, REGISTRY

    families = [f"{name}:" for name in FAMILIES if name != "channel"]
    return _listed(incomplete, [*REGISTRY, *(f"channel:{name}" for name in CHANNELS), *families])


def keys(incomplete: str) -> list[str]:
    """`train.batch=` and so on; what comes after the sign is the user's."""
    from helmas_core.config import Config

    sections = {name: field.default for name, field in Config.model_fields.items()}
    known = [f"{name}.{key}=" for name, section in sections.items() for key in type(section).model_fields]
    return _starting(incomplete, known)


def bridges(incomplete: str) -> list[str]:
    """Run folders under ./runs that hold a bridge."""
    from helmas_core.runs import ROOT, list_runs

    return _starting(incomplete, [str(run.path) for run in list_runs(ROOT) if run.bridge.is_file()])


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Names of runs in the folder that the command looks into, but for those already named."""
    from helmas_core.runs import ROOT, list_runs

    elsewhere = context.params.get("out") if context.command.name != "plot" else None  # plot writes there
    named = context.params.get("names") or ()
    return [
        name
        for name in _starting(incomplete, [run.name for run in list_runs(Path(elsewhere or ROOT))])
        if name not in named
    ]


def reports(incomplete: str) -> list[str]:
    """Run folders under ./runs that hold a report."""
    from helmas_core.runs import ROOT, list_runs

    return _starting(incomplete, [str(run.path) for run in list_runs(ROOT) if run.report])


def _starting(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]


def _listed(incomplete: str, known: Iterable[str]) -> list[str]:
    """The last word of a list with commas, after those before it, none of them twice."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _starting(last, known) if name not in before.split(",")]
