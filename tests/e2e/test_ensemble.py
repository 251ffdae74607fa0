"""Several teachers, as a person uses them: the lab pair with a second teacher of another shape and family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helmas_cli.app import main
from helmas_core.models.sources import read_tokenizer
from tests.cli.fakes import Result
from tests.tiny import tiny_model

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SHORT = ("train.steps=8", "train.batch=4", "train.calibration_items=48", "train.eval_samples=4", "data.limit=200")
Run = Callable[..., Result]


def save_teacher(folder: Path, seed: int) -> Path:
    """A random model with the lab's tokenizer."""
    tokenizer = read_tokenizer("lab:teacher")
    shape = {"layers": 2, "heads": 4, "kv_heads": 1, "head_dim": 16, "vocab_size": len(tokenizer)}
    tiny_model("llama", seed=seed, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    for name, seed in (("second", 5), ("other", 6)):
        save_teacher(folder / name, seed)
    return folder


@pytest.fixture
def helmas(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(place)

    def run(*argv: str) -> Result:
        code = main(list(argv))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def more(*folders: str) -> tuple[str, str]:
    return ("-s", f"pair.more_teachers={json.dumps([f'./{folder}' for folder in folders])}")


@pytest.fixture
def trained(place: Path, helmas: Run) -> str:
    """The run folder, made once."""
    if not (place / "run").exists():
        sets = [part for one in SHORT for part in ("-s", one)]
        done = helmas("train", "-p", "lab", *more("second"), *sets, "-s", "train.store=store", "-o", "run", "--json")
        assert done.code == 0, done.err
        assert done.json["steps"] == 8 and done.json["eval"]["pair"]["teacher_2"]["id"] == "./second"
    return "run"


def test_a_bridge_remembers_its_teachers_and_is_evaluated_over_all(trained: str, helmas: Run) -> None:
    done = helmas(
        "eval",
        "--bridge",
        trained,
        "--dataset",
        "relay",
        "--limit",
        "6",
        "-s",
        "eval.batch=3",
        "-o",
        "out",
        "--json",
        "-q",
    )
    assert done.code == 0, done.err
    found = done.json
    assert found["agreement"] == {"own-text": 1.0} and found["arms"]["bridge"]["n"] == 6
    assert found["pair"]["teacher_2"]["layers"] == 2
    per_token = 2 * (8 * 2 * 32 + 2 * 1 * 16) * 4
    assert found["costs"]["bridge"]["teacher_bytes"] / found["costs"]["bridge"]["bridged_bytes"] == pytest.approx(
        per_token / (2 * 3 * 3 * 24 * 4), rel=1e-3
    )
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "each teacher gives" in page and "teacher 2" in page


def test_reused_states_give_the_same_answers(trained: str, helmas: Run) -> None:
    asked = ("eval", "--bridge", trained, "--dataset", "relay", "--limit", "6", "-s", "eval.batch=3", "--json", "-q")
    plain, kept = (helmas(*asked, *sets).json for sets in ((), ("-s", "eval.reuse=true", "-s", "train.store=store")))
    assert plain["outcomes"] == kept["outcomes"]


def test_a_run_goes_on_where_it_was(trained: str, helmas: Run, place: Path) -> None:
    sets = [part for one in (*SHORT, "train.checkpoint_every=4") for part in ("-s", one)]
    asked = ("train", "-p", "lab", *more("second"), *sets, "-q", "-o")
    assert helmas(*asked, "whole").code == 0 and helmas(*asked, "cut").code == 0
    (place / "cut/bridge.safetensors").unlink()
    for last in (place / "cut/checkpoints").glob("*8*"):
        last.rename(place / f"gone-{last.name}")
    assert helmas(*asked, "cut", "--resume").code == 0
    assert (place / "cut/bridge.safetensors").read_bytes() == (place / "whole/bridge.safetensors").read_bytes()


@pytest.mark.parametrize("teachers", [("other",), (), ("second", "other")])
def test_other_teachers_are_refused(trained: str, helmas: Run, teachers: tuple[str, ...]) -> None:
    done = helmas("eval", "--bridge", trained, *more(*teachers), "--limit", "4")
    assert done.code == 2
    assert done.err.count("made for another pair") == 1
    assert ("teacher_2 fingerprint" if len(teachers) == 1 else "teachers 2, of this one") in done.err


def test_chat_goes_over_all_teachers(trained: str, helmas: Run) -> None:
    done = helmas("chat", "--bridge", trained, "--prompt", "Seat numbers: Kara 412. Answer: Kara", "--json", "-q")
    assert done.code == 0, done.err
    assert "teacher reads" in done.out


def test_inspect_cache_shows_the_gates(trained: str, helmas: Run) -> None:
    asked = ("inspect-cache", "--bridge", trained, "--prompt", "Seat numbers: Kara 412, Tona 318, Bovik 977.")
    shown, found = helmas(*asked), helmas(*asked, "--json").json
    assert shown.code == 0, shown.err
    assert "V gates" in shown.out and "teacher 2" in shown.out
    gates = found["teachers"]["k"]
    assert len(gates) == 3 and all(sum(row) == pytest.approx(1, abs=1e-3) for row in gates)
    assert gates != [[0.5, 0.5]] * 3  # they have learnt


def test_doctor_counts_every_teacher(helmas: Run) -> None:
    found = helmas("doctor", "-p", "lab", *more("second"), "--json").json
    assert found["ok"] and list(found["geometry"]) == ["teacher", "teacher_2", "student"]
    one = helmas("doctor", "-p", "lab", "--json").json
    assert found["bridge_parameters"] > one["bridge_parameters"]
    assert found["kv_bytes_per_token"]["teacher_2"] == 2 * 2 * 16 * 4
    assert found["memory_gib"].keys() - one["memory_gib"].keys() == {"teacher_2"}
    missing = helmas("doctor", "-p", "lab", *more("nowhere"), "--json")
    assert missing.code == 1 and missing.json["problems"][0]["where"] == "teacher_2"


def test_the_first_teacher_writes_what_all_of_them_read(helmas: Run, trained: str) -> None:
    """Reasoning, and thoughts without words, over several teachers."""
    data = ("--dataset", "jsonl:items.jsonl", "--limit", "4", "-s", "eval.allow_overlap=true", "-s", "eval.split=train")
    rows = [
        {"prompt": f"What is {n} + 1?", "reasoning": f"{n} + 1 is {n + 1}.", "answer": str(n + 1)} for n in range(4)
    ]
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    generate = ("-s", "data.handoff=reasoning", "-s", "data.reasoning=generate", "-s", "data.reasoning_tokens=6")
    for how in (generate, ("-s", "data.handoff=latent", "-s", "data.latent_steps=2")):
        done = helmas("eval", "--bridge", trained, *data, *how, "--json", "-q")
        assert done.code == 0, done.err
        assert done.json["n"] == done.json["arms"]["bridge"]["n"] > 0
        written = done.json["reasoning"]
        assert (written and written["generated"]) == (None if how[1].endswith("latent") else done.json["n"])


def test_a_shared_bridge_names_no_folder_of_this_machine(trained: str, helmas: Run, place: Path) -> None:
    name = "-s", 'pair.more_teachers=["somebody/second"]'
    said = helmas("push", trained, "./shared", "--yes")
    assert said.code == 0 and """-s 'pair.more_teachers=["OWNER/NAME"]'""" in said.err
    many = helmas("push", trained, "./many", "--yes", "-s", 'pair.more_teachers=["a/b", "c/d"]')
    assert many.code == 2 and "2 further teachers are named, the bridge has 1" in many.err
    card = (place / "shared/README.md").read_text(encoding="utf-8")
    assert """-s 'pair.more_teachers=["DIR"]'""" in card and "teacher 2" in card and "./second" not in card
    assert helmas("push", trained, "./named", "--yes", "-q", *name).code == 0
    card = (place / "named/README.md").read_text(encoding="utf-8")
    assert "**somebody/second**" in card and "more_teachers" not in card
