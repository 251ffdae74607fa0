"""Tokens and passwords: stars in everything that is written down, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helmas_core.json_files import to_json
from helmas_core.layering import load_config
from helmas_core.report.document import Evidence
from helmas_core.report.write import write_report
from helmas_core.runs import Run, check_same_config, create_run
from helmas_core.secrets import STARS, hidden, hidden_arguments, is_telling
from helmas_core.training.tracking import hyperparameters
from tests.evidence import SAMPLE, items

pytestmark = pytest.mark.unit
TOKEN = "hf_AbCdEfGhIjKlMnOpQrSt"
WORD = "correct-horse-battery"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", WORD)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "relay-is-a-word")
    monkeypatch.setenv("DB_PASSWORD_FILE", "/home/me/relay")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"use {TOKEN}.", f"use {STARS}."),
        (f"it was {WORD}!", f"it was {STARS}!"),
        ("https://me:pass@host/x", f"https://{STARS}@host/x"),
        ("https://host/x?a=1&token=abc&b=2", f"https://host/x?a=1&token={STARS}&b=2"),
        ("https://host/x?X-Amz-Signature=0a1b&b=2", f"https://host/x?X-Amz-Signature={STARS}&b=2"),
        ("Authorization: Bearer abcdefgh.ijk", f"Authorization: Bearer {STARS}"),
        ("train.api_key=abc", f"train.api_key={STARS}"),
        ('password="abc"', f'password="{STARS}"'),
        ("max_new_tokens=300, 1,200 tokens/s, relay-is-a-word", None),
        ("the token = a word; me@host; git@host:repo; a key=value pair", None),
        ("the secretary's passwords", None),
    ],
)
def test_secrets_become_stars_and_words_stay(text: str, shown: str | None) -> None:
    assert hidden(text) == (text if shown is None else shown)


def test_a_tree_keeps_its_form() -> None:
    assert hidden({"a": [WORD, 1, None], "b": {"c": "x"}}) == {"a": [STARS, 1, None], "b": {"c": "x"}}


def test_what_follows_a_telling_flag_is_hidden() -> None:
    argv = ["helmas", "train", "--api-key", "abc", "-p", "lab", "--token=abc", "-s", f"data.dataset={WORD}"]
    shown = ["helmas", "train", "--api-key", STARS, "-p", "lab", f"--token={STARS}", "-s", f"data.dataset={STARS}"]
    assert hidden_arguments(argv) == shown
    assert hidden_arguments([]) == []


def test_telling_names() -> None:
    telling = ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD".replace("PG", "PG_"), "--token")
    assert all(map(is_telling, telling))
    assert not any(
        map(is_telling, ("tokens_per_second", "max_new_tokens", "TOKENIZERS_PARALLELISM", "KEYBOARD", "PWD"))
    )


def test_no_file_of_a_run_holds_a_secret(tmp_path: Path) -> None:
    config = load_config(["lab"], [f"data.dataset=jsonl:https://me:{WORD}@host/x?token={TOKEN}"])
    argv = ["helmas", "train", "--token", TOKEN, "-s", f"data.dataset=https://me:pass@host/{WORD}"]
    run = create_run(tmp_path / "run", config, argv, profiles_text=f'# {TOKEN}\n[data]\ndataset = "{WORD}"\n')
    run.note(decisions=[f"loaded with {TOKEN}"])
    run.log({"step": 1, "event": "start", "start": f"https://me:pass@host/{WORD}"})
    report = {**SAMPLE, "dataset": f"jsonl:{WORD}", "warnings": [f"?token={TOKEN}"], "verdict": {"text": TOKEN}}
    write_report(run, report, [Evidence(report, items("x", 2))], Run(run.path))
    texts = {path.name: path.read_text() for path in run.path.rglob("*") if path.suffix != ".png" and path.is_file()}
    assert {"manifest.json", "config.json", "profile.toml", "metrics.jsonl", "report.html", "report.md"} <= texts.keys()
    names = " ".join(str(path) for path in run.path.rglob("*"))
    for secret in (TOKEN, WORD, "me:pass"):
        assert not [name for name, text in texts.items() if secret in text]
        assert secret not in names
    check_same_config(run.path, config)  # a run with a secret in it can be resumed all the same
    assert WORD not in str(hyperparameters(config))


def test_a_document_on_stdout_holds_none() -> None:
    assert json.loads(to_json({"argv": ["--token", TOKEN]})) == {"argv": ["--token", STARS]}
