"""`helmas`: the commands, and how errors become one line and an exit code.

0 ok · 1 failed · 2 usage or configuration · 3 a gate was not met · 130 interrupted · 143 terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from helmas_cli.commands import (
    baseline,
    chat,
    compare,
    doctor,
    inspect_cache,
    overlap,
    plot,
    pool,
    profiles,
    pull,
    push,
    runs,
    train,
)
from helmas_cli.commands import eval as evaluate
from helmas_cli.examples import OVERVIEW, examples
from helmas_cli.interrupt import CODE as INTERRUPTED
from helmas_cli.options import with_common
from helmas_cli.ui import one_line
from helmas_core import processes
from helmas_core.errors import ConfigError, HelmasError

FAILED = 1
TOGETHER = ("baseline", "eval", "train")  # commands that several processes share
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # as torch says it, which is not imported here

app = typer.Typer(
    name="helmas",
    help="Hand a teacher's KV cache to a student through a trained bridge.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("baseline", epilog=examples("baseline"))(with_common(baseline.baseline))
app.command("train", epilog=examples("train"))(with_common(train.train))
app.command("eval", epilog=examples("eval"))(with_common(evaluate.evaluate))
app.command("compare", epilog=examples("compare"))(with_common(compare.compare))
app.command("chat", epilog=examples("chat"))(with_common(chat.chat))
app.command("inspect-cache", epilog=examples("inspect-cache"))(with_common(inspect_cache.inspect_cache))
app.command("doctor", epilog=examples("doctor"))(with_common(doctor.doctor))
app.command("plot", epilog=examples("plot"))(with_common(plot.plot))
app.command("overlap", epilog=examples("overlap"))(with_common(overlap.overlap))
app.command("pool", epilog=examples("pool"))(with_common(pool.pool))
app.command("push", epilog=examples("push"))(with_common(push.push))
app.command("pull", epilog=examples("pull"))(with_common(pull.pull))
app.add_typer(profiles.app, name="profiles")
app.add_typer(runs.app, name="runs")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"helmas {version('helmas')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None and not version:
        typer.echo(OVERVIEW)
    if processes.count() > 1 and context.invoked_subcommand not in TOGETHER:
        fix = f"start it without a launcher; several can share {', '.join(TOGETHER)}"
        raise ConfigError(
            "one process does this alone", where=f"helmas {context.invoked_subcommand or ''}".strip(), fix=fix
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. Of several processes the first one shows the result."""
    try:
        processes.join()
        if processes.first():
            code = _run(argv)
        else:
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                code = _run(argv)
        processes.leave()
        return code
    except KeyboardInterrupt:
        return processes.first_to_fail(INTERRUPTED)[1]
    except processes.LostError as error:
        return processes.first_to_fail(error.exit_code)[1]
    except typer.TyperException as error:
        return _tell(error.format_message().rstrip("."), _help_of(error), error.exit_code, error)
    except HelmasError as error:
        return _tell(str(error), "", error.exit_code, error)
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return _tell(f"out of memory: {error}", "lower train.batch or eval.batch", FAILED, error)
        what = f"{type(error).__name__}: {error}"
        return _tell(what, "unexpected; set HELMAS_DEBUG=1 for the traceback", FAILED, error)


def _run(argv: Sequence[str] | None) -> int:
    return app(args=None if argv is None else list(argv), prog_name="helmas", standalone_mode=False) or 0


def _help_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context else "see `helmas --help`"


def _tell(what: str, fix: str, code: int, error: Exception) -> int:
    speaks, code = processes.first_to_fail(code)
    if not speaks:
        return code
    if os.environ.get("HELMAS_DEBUG") == "1":
        raise error
    print("error:", one_line(what + (f" — {fix}" if fix else "")), file=sys.stderr)
    return code
