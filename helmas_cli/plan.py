"""What a command would do, for `--dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helmas_cli.ui import Screen
    from helmas_core.config import Config


def show_plan(screen: Screen, command: str, config: Config, **more: Any) -> int:
    """Print the plan as one JSON document or as lines; writes nothing. Returns exit code 0."""
    plan = plan_of(config)
    document = {
        "schema": 1,
        "command": command,
        "dry_run": True,
        **plan,
        **more,
        "config": config.model_dump(mode="json"),
    }
    if screen.json:
        screen.document(document)
        return 0
    screen.pairs({"command": command, **plan, **{name: value for name, value in more.items() if value is not None}})
    screen.print()
    from helmas_cli.commands.profiles import to_toml

    screen.print(to_toml(config.model_dump(mode="json")), end="")
    return 0


def mix_of(config: Config) -> str:
    """Each source of data.mix with its share of the training draws."""
    return ", ".join(f"{name} {share:.1%}" for name, share in config.data.shares().items())


def plan_of(config: Config) -> dict[str, Any]:
    return {
        "teacher": config.pair.teacher,
        **({"more teachers": ", ".join(config.pair.more_teachers)} if config.pair.more_teachers else {}),
        "student": config.pair.student,
        "method": ", ".join(filter(None, (config.bridge.method, config.bridge.mode))),
        "dataset": config.data.dataset,
        **({"mix": mix_of(config)} if config.data.mix else {}),
        "handoff": config.data.handoff,
        "steps": config.train.total_steps(),
        "arms": ",".join(config.eval.arms),
    }
