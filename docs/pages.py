"""A page is written by hand, but for what stands between `<!-- made: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from pathlib import Path

from docs.commands import commands
from docs.keys import configuration, options, profiles

HERE = Path(__file__).parent
PART = re.compile(r"(<!-- made: (?P<name>[\w-]+)(?: (?P<of>[\w-]+))? -->\n).*?(<!-- end -->)", re.DOTALL)
PARTS = {"commands": commands, "configuration": configuration, "options": options, "profiles": profiles}


def pages() -> list[Path]:
    return sorted(HERE.glob("*.md"))


def fresh(page: Path) -> str:
    """The page with its generated parts as the code has them now."""
    return PART.sub(_made, page.read_text("utf-8"))


def _made(found: re.Match[str]) -> str:
    make = PARTS[found["name"]]
    text = make(found["of"]) if found["of"] else make()
    return f"{found[1]}\n{text.strip()}\n\n{found[4]}"
