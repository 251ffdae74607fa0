"""`helmas push`: share a run's bridge, with a model card, on the hub or in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli import completion
from helmas_cli.ask import agreed, check_someone
from helmas_cli.options import Common, Repo, Revision, Yes
from helmas_cli.ui import Screen, size

if TYPE_CHECKING:
    from helmas_core.sharing.folder import Place
    from helmas_core.sharing.parcel import Parcel

SIDES = {"pair.teacher": "teacher", "pair.student": "student"}
MORE = "pair.more_teachers"
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run folder, its name in ./runs, or its bridge.safetensors.",
        autocompletion=completion.bridges,
    ),
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="The --out folder of its helmas eval, if not RUN.")
]
Private = Annotated[bool, typer.Option("--private", help="A repository that only you and whom you let in can see.")]
Items = Annotated[bool, typer.Option("--items", help="Share items.jsonl too: every question and every answer.")]


def push(
    common: Common,
    run: Run,
    repo: Repo,
    report: Report = None,
    private: Private = False,
    revision: Revision = None,
    items: Items = False,
    yes: Yes = False,
) -> int:
    """Share a bridge with its model card and report, after asking; the token is that of `hf auth login`, or HF_TOKEN.

    A model that lies in a folder here is named for others by -s pair.teacher=OWNER/NAME.
    """
    from helmas_cli.load import calm_libraries, place_of, run_bridge

    screen = Screen.of(common)
    calm_libraries(screen)
    place = place_of(repo, revision, private)
    if not (yes or common.dry_run):
        check_someone("push")
    bridge, models = run_bridge(run), _models(common)
    there = "" if common.dry_run else place.look()
    parcel = _pack(screen, bridge, place, report, models, items)
    if common.dry_run:
        return _finish(screen, parcel, place, dry_run=True)
    parcel = parcel.beside(place.card())
    if not yes:
        _list(screen, parcel)
        if not agreed(f"Share {_sum(parcel)} {there}?", "push"):
            screen.note("nothing was shared")
            return _finish(screen, parcel, place, shared=False)
    return _finish(screen, parcel, place, shared=True, **place.send(parcel.files))


def _pack(
    screen: Screen, bridge: Path, place: Place, report: Path | None, models: dict[str, str], items: bool
) -> Parcel:
    from helmas_core.sharing.parcel import pack

    parcel = pack(bridge, place.address, report and report.expanduser(), models, items)
    if not parcel.subject.reports:
        screen.note("no report.json: the card tells no result; helmas eval --bridge RUN -o RUN writes one")
    for side in parcel.subject.unknown():
        named = (
            f"pair.{side}=OWNER/NAME" if f"pair.{side}" in SIDES else f"'{MORE}={json.dumps(parcel.subject.more())}'"
        )
        screen.note(f"the {side.replace('_', ' ')} lies on this machine: -s {named} says where others find it")
    return parcel


def _models(common: Common) -> dict[str, str]:
    """The public names of the models, by side. ConfigError for any other key."""
    from functools import reduce

    from helmas_core.errors import ConfigError, did_you_mean
    from helmas_core.layering import merge, parse_set
    from helmas_core.runs import flat
    from helmas_core.sides import named

    given = flat(reduce(merge, map(parse_set, common.sets), {}))
    for key, value in given.items():
        if key not in (*SIDES, MORE):
            raise ConfigError("is what it was trained with", where=f"--set {key}", fix=did_you_mean(key, SIDES))
        if key == MORE and not isinstance(value, list):
            raise ConfigError("is a list", where=f"--set {key}", fix=f"write --set '{MORE}=[\"OWNER/NAME\"]'")
    models = named({key.removeprefix("pair."): value for key, value in given.items()})
    return {side: str(name) for side, name in models.items() if name is not None}


def _sum(parcel: Parcel) -> str:
    sizes = parcel.sizes()
    return f"{len(sizes)} files, {size(sum(sizes.values()))},"


def _list(screen: Screen, parcel: Parcel) -> None:
    """What would go, where the question is asked."""
    screen.note_lines(f"{size(count):>10}  {name}" for name, count in parcel.sizes().items())


def _finish(screen: Screen, parcel: Parcel, place: Place, **outcome: Any) -> int:
    sizes = parcel.sizes()
    files = [{"name": name, "bytes": count} for name, count in sizes.items()]
    if screen.json:
        head = {"schema": 1, "command": "push", "target": place.address}
        screen.document({**head, "files": files, "bytes": sum(sizes.values()), **outcome})
    elif "dry_run" in outcome:
        screen.pairs({name: size(count) for name, count in sizes.items()})
        screen.print(f"{_sum(parcel)} to {place.address}")
    elif outcome["shared"]:
        screen.print(outcome["where"])
    return 0
