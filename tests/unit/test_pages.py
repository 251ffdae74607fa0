"""The pages say what the code says: what is made of it is fresh, and commands, keys and links in the prose exist."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.core import TyperGroup

from docs.keys import TABLES
from docs.pages import fresh, pages
from docs.still import still
from helmas_cli.app import app
from helmas_cli.examples import EXAMPLES
from helmas_core import config
from helmas_core.bridges.registry import METHODS
from helmas_core.config import Config, Section
from helmas_core.layering import load_config
from tests.cli.fakes import report
from tests.pages import PAGES, ROOT, blocks, spans

pytestmark = pytest.mark.unit
README = (ROOT / "README.md").read_text("utf-8")
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
UNTESTED = [
    ("docs/quick-start.md", "python3 -m venv .venv"),
    ("README.md", "make demo"),
    ("README.md", "helmas eval --bridge RUN --lm-eval arc_challenge,gsm8k,./mine.yaml"),
    ("docs/several-processes.md", "helmas train --processes 4 -p h200 -o runs/x"),
    (
        "docs/several-processes.md",
        "accelerate launch --multi_gpu --num_machines 2 --machine_rank 0 --main_process_ip 10.0.0.1"
        " --main_process_port 29500",
    ),
    ("results/README.md", 'PAIR="-s pair.teacher=$MODELS/teacher -s pair.student=$MODELS/student"'),
]
KEY = re.compile(r"(?:pair|bridge|train|data|eval|hardware)\.[a-z_]+(?=$| = |=)")
WHOLE_TABLES = {config.PairGeometry, Config}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_generated_parts_are_fresh(page: Path) -> None:
    assert page.read_text("utf-8") == fresh(page), "run `python -m docs`"


def test_every_method_section_and_key_is_on_a_page() -> None:
    shown = re.findall(r"<!-- made: options (\w+) -->", (ROOT / "docs/methods.md").read_text("utf-8"))
    assert set(shown) == set(METHODS)
    known = {one for one in vars(config).values() if isinstance(one, type) and issubclass(one, Section)}
    assert known - {Section} - WHOLE_TABLES <= set(TABLES.values())
    models = [*TABLES.values(), *(method.Options for method in METHODS.values())]
    silent = [
        f"{model.__name__}.{key}" for model in models for key, f in model.model_fields.items() if not f.description
    ]
    assert silent == []


def test_what_is_not_tested_is_listed_here() -> None:
    bash = [block for page in PAGES for block in blocks(page) if block.kind in ("bash", "sh", "shell", "console")]
    assert {block.kind for block in bash} == {"bash"}
    assert {block.note for block in bash} == {"", "dry-run", "no-test"}
    untested = [(b.page, *b.commands()[:1]) for b in bash if b.note == "no-test"]
    assert [(page, command.split("  ")[0]) for page, command in untested] == UNTESTED


def check(line: str) -> None:
    """Fails unless helmas would take this command line as it is."""
    name, *words = shlex.split(line, comments=True)
    command = typer.main.get_command(app)
    assert name == "helmas"
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, TyperGroup):
        known = {flag for parameter in command.get_params(typer.Context(command)) for flag in parameter.opts}
        assert set(words) <= known
        return
    try:
        command.make_context(name, [word for word in words if word != "--help"])
    except typer.TyperException as error:
        if not error.format_message().startswith("Missing"):  # prose need not say all
            raise
    sets = [value for flag, value in pairwise(words) if flag in ("-s", "--set")]
    load_config([value for flag, value in pairwise(words) if flag == "-p" and not value.endswith(".toml")], sets)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=[*NAMES, "CONTRIBUTING.md"])
def test_commands_in_the_prose_exist(page: Path) -> None:
    for span in spans(page):
        if span.startswith("helmas ") and not re.match(r"helmas ([A-Z]|…)", span):
            check(span.replace("…", "it").replace("METHOD", "h2c").replace("<name>", "lab"))


def test_commands_of_the_results_are_taken_as_they_are() -> None:
    """They need real models; their variables are filled in, and each is read as helmas would read it."""
    (block,) = blocks(ROOT / "results/README.md")
    said: dict[str, str] = {}
    checked = 0
    for line in block.commands():
        line = re.sub(r"\$(\w+)", lambda found: said.get(found[1], "models"), line.split(" > ")[0])
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            said[assigned[1]] = assigned[2]
        elif line.startswith("helmas "):
            check(line)
            checked += 1
    assert checked >= 10


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_are_taken_as_they_are(command: str) -> None:
    for line in EXAMPLES[command]:
        check(line.split(" > ")[0])


def test_a_flag_or_key_that_is_gone_is_noticed() -> None:
    for line in (
        "helmas train --resumee",
        "helmas trainn",
        "helmas train -s train.stepz=3",
        "helmas eval --batch many",
    ):
        with pytest.raises((typer.TyperException, AssertionError, ValueError)):
            check(line)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_keys_in_the_prose_exist(page: Path) -> None:
    known = {f"{name}.{key}" for name, field in Config.model_fields.items() for key in type(field.default).model_fields}
    known |= {f"bridge.{key}" for method in METHODS.values() for key in method.Options.model_fields}
    named = {found for span in spans(page) for found in KEY.findall(span)}
    named = {key for key in named if key.partition(".")[2] not in ("jsonl", "safetensors")}
    assert named - known == set()


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=[*NAMES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: Path) -> None:
    for path, heading in LINK.findall(page.read_text("utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        if heading:
            assert heading in {slug(line) for line in target.read_text("utf-8").splitlines() if line.startswith("#")}


def slug(heading: str) -> str:
    """What a heading's anchor is called."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")


STILL = ROOT / "docs/assets/eval.svg"


def test_the_still_is_small_and_fetches_nothing() -> None:
    drawn = STILL.read_text("utf-8")
    assert len(drawn.encode()) < 100_000
    assert re.findall(r"url\((?!#)[^)]*\)|(?:href|src)=", drawn) == []
    ElementTree.fromstring(drawn)


def test_the_still_shows_what_the_table_of_the_readme_says() -> None:
    shown = written(STILL.read_text("utf-8"))
    rows = re.findall(r"^\| \**`(\w+)`\** \| [^|]+ \| \**([\d.]+)\** \[([\d.]+), ([\d.]+)\] \|$", README, re.MULTILINE)
    assert [row[0] for row in rows] == ["student", "teacher", "text", "bridge", "deranged", "own"]
    for arm, accuracy, low, high in rows:
        assert [arm, accuracy, low, "…", high] in [line.split()[:5] for line in shown], arm


def test_a_still_is_what_the_terminal_shows() -> None:
    made = {**report("relay"), "verdict": {"text": "as good as text"}}
    shown = "\n".join(" ".join(line.split()) for line in written(still(made, "helmas eval --bridge runs/it")))
    for words in (
        "$ helmas eval --bridge runs/it",
        "relay · test · n = 40",
        "bridge-deranged",
        "verdict: as good as text",
    ):
        assert words in shown


def written(drawn: str) -> list[str]:
    """The lines of a still, from top to bottom."""
    lines: dict[float, str] = {}
    for piece in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text"):
        lines[float(piece.attrib["y"])] = lines.get(float(piece.attrib["y"]), "") + f" {piece.text}"
    return [text.replace("\xa0", " ").rstrip() for _, text in sorted(lines.items())]
