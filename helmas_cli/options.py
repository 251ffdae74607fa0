"""The flags that commands share, spelled once, and how they become a `Config`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from helmas_cli import completion

if TYPE_CHECKING:
    from helmas_core.config import Config

_PANEL = "Common flags"


def _common(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_PANEL, show_default=False, **settings)


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes; `with_common` adds these to a command's own flags."""

    profile: Annotated[
        list[str],
        _common(
            "--profile",
            "-p",
            metavar="NAME|FILE",
            help="Profile; repeat to layer.",
            autocompletion=completion.profiles,
        ),
    ] = field(default_factory=list)
    sets: Annotated[
        list[str],
        _common(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="One key over the profiles, as in train.batch=4.",
            autocompletion=completion.keys,
        ),
    ] = field(default_factory=list)
    out: Annotated[Path | None, _common("--out", "-o", metavar="DIR", help="Folder for what the command writes.")] = (
        None
    )
    dataset: Annotated[
        str | None,
        _common(
            "--dataset",
            metavar="NAME[,NAME]",
            help="Task names, or jsonl:PATH.",
            autocompletion=completion.datasets,
        ),
    ] = None
    data_dir: Annotated[
        Path | None, _common("--data-dir", metavar="DIR", help="Local data first, as in DIR/gsm8k/test.jsonl.")
    ] = None
    limit: Annotated[int | None, _common("--limit", metavar="N", min=1, help="At most N items.")] = None
    seed: Annotated[int | None, _common("--seed", metavar="N", min=0, help="Seed of everything random.")] = None
    json: Annotated[bool, _common("--json", help="Print one JSON document on stdout.")] = False
    quiet: Annotated[bool, _common("--quiet", "-q", help="No progress, no notes.")] = False
    verbose: Annotated[int, _common("--verbose", "-v", count=True, metavar="", help="More notes; repeat for more.")] = 0
    dry_run: Annotated[bool, _common("--dry-run", help="Print the plan and stop; nothing is loaded or written.")] = (
        False
    )


BRIDGE_HELP = "Run folder with a bridge, the file itself, or OWNER/NAME of a shared one."
_BRIDGE: Any = typer.Option("--bridge", metavar="PATH|REPO", help=BRIDGE_HELP, autocompletion=completion.bridges)
Bridge = Annotated[str, _BRIDGE]
MaybeBridge = Annotated[str | None, _BRIDGE]
Repo = Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME or its page on the hub, or a folder: ./folder.")]
Revision = Annotated[str | None, typer.Option("--revision", metavar="NAME", help="A branch; to pull, also a commit.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Arms = Annotated[
    str | None, typer.Option("--arms", metavar="A,B", help="Arms to run, by commas.", autocompletion=completion.arms)
]
Split = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Split of the data set.")]
Handoff = Annotated[
    Literal["prompt", "reasoning", "latent"] | None,
    typer.Option("--handoff", metavar="HOW", help="What is handed over: prompt, reasoning or latent."),
]
Processes = Annotated[
    int, typer.Option("--processes", metavar="N", min=1, help="Processes that share the work, one per GPU.")
]
Batch = Annotated[int | None, typer.Option("--batch", metavar="N", min=1, help="Items at once.")]


def with_common(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """`command(common, …)` as Typer sees it: its own flags, then the shared ones."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    hints = get_type_hints(Common, include_extras=True)
    shared = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=item.default if isinstance(item.default, bool | int | None) else [],
            annotation=hints[item.name],
        )
        for item in fields(Common)
    ]

    @functools.wraps(command)
    def run(**values: Any) -> int | None:
        common = Common(**{item.name: values.pop(item.name) for item in shared})
        return command(common, **values)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + shared
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def arms_of(text: str | None) -> list[str] | None:
    """`--arms a,b` as a list; an unknown arm is a ConfigError that names the nearest one."""
    from helmas_core.config import ARMS, CONTROLS
    from helmas_core.errors import ConfigError, did_you_mean

    if text is None:
        return None
    arms = [arm.strip() for arm in text.split(",") if arm.strip()]
    for arm in arms:
        if arm not in ARMS + CONTROLS:
            raise ConfigError(f'unknown arm "{arm}"', where="--arms", fix=did_you_mean(arm, ARMS + CONTROLS))
    if not arms:
        raise ConfigError("no arm given", where="--arms", fix=f"known: {', '.join(ARMS + CONTROLS)}")
    return arms


def flag_tree(common: Common, limit_of: Literal["data", "eval"], **own: Any) -> dict[str, Any]:
    """The flags as a configuration; `own` holds the command's ones as `section__key=value`. None: not given."""
    keys = {
        "data__dataset": common.dataset,
        "data__data_dir": common.data_dir and str(common.data_dir.expanduser()),
        "train__seed": common.seed,
        f"{limit_of}__limit": common.limit,
        **own,
    }
    tree: dict[str, dict[str, Any]] = {}
    for name, value in keys.items():
        if value is not None:
            section, _, key = name.partition("__")
            tree.setdefault(section, {})[key] = value
    return tree


def resolve(
    common: Common,
    flags: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    over: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults < `base` < profiles < `over` < `--set` < flags. Task names are checked before anything is loaded."""
    from helmas_core.config import Config
    from helmas_core.layering import load_config, merge
    from helmas_core.validation import validate

    config = load_config(common.profile, common.sets, base, over)
    config = validate(Config, merge(config.model_dump(exclude_unset=True), flags))
    for name in task_list(config):
        check_task(name)
    return config


def task_list(config: Config) -> list[str]:
    """The task names in `data.dataset`, in order."""
    from helmas_core.errors import ConfigError

    names = config.data.names()
    if not names:
        raise ConfigError("no data set given", where="data.dataset", fix="name one with --dataset")
    return names


def check_task(name: str) -> None:
    """DataError for a name that is no task."""
    from helmas_core.data.tasks import get_task

    get_task(name)


def profiles_text(names: Sequence[str]) -> str:
    """The profiles as written, one after the other, each under its name."""
    from helmas_core.foreign import PROFILE, read_text
    from helmas_core.layering import DEFAULT_PROFILE, find_profile

    paths = [find_profile(name) for name in names or [DEFAULT_PROFILE]]
    return "\n".join(f"# {path.name}\n{read_text(path, PROFILE)}" for path in paths)
