"""lm-evaluation-harness over the arms: likelihoods by a second route, and the same letters as our own evaluation."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from helmas_core.bridges.artefact import describe, save_bridge
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config
from helmas_core.data.tasks import REGISTRY
from helmas_core.errors import ConfigError, DataError, HelmasError
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.evaluation.harness import HARNESS_ARMS, HarnessModel, open_model
from helmas_core.evaluation.harness_tasks import choose_tasks, evaluate_task
from helmas_core.handoff.prepare import prepare
from helmas_core.layering import load_config
from helmas_core.models import prefix
from helmas_core.models.cache import capture
from helmas_core.models.inject import forward, generate
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import decode, encode, pad_left
from helmas_core.progress import Silent
from tests.harness_task import write_task

pytestmark = pytest.mark.numerics
ASKED = [
    ("Kara has 4 and Tona has 318. Answer: Kara", " 4"),
    ("Kara has 4 and Tona has 318. Answer: Kara", " 318"),
    ("3+4", "=7 and no more"),
    ("Seat numbers: Bovik 977, Lami 205, Tona 31, Kara 4. Answer: Lami ", "205"),
    ("9*8*7", "="),
]
DOCUMENTS = (0, 0, 1, 2, 3)


def request(*args: Any, document: int = 0) -> SimpleNamespace:
    return SimpleNamespace(args=args, task_name="sums", doc_id=document)


def requests() -> list[SimpleNamespace]:
    return [request(*args, document=document) for args, document in zip(ASKED, DOCUMENTS, strict=True)]


@pytest.fixture(scope="module")
def bridge(unequal: Pair) -> Bridge:
    made = build_bridge(BridgeSection.model_validate({"mode": "replace", "projector_input": "layer"}), unequal)
    read = pad_left([encode(unequal.tokenizer, context) for context, _ in ASKED], unequal.pad)
    made.fit([(capture(unequal.teacher.model, *read), capture(unequal.student.model, *read))])
    return made.eval()


def ids_of(pair: Pair, context: str, continuation: str) -> tuple[list[int], list[int]]:
    read = encode(pair.tokenizer, context.rstrip())
    whole = encode(pair.tokenizer, context + continuation)
    assert whole[: len(read)] == read
    return read, whole[len(read) :]


def likelihood(logits: torch.Tensor, targets: Sequence[int]) -> float:
    shares = logits[0, -len(targets) :].log_softmax(-1)
    return shares.gather(1, torch.tensor(targets)[:, None]).sum().item()


@pytest.mark.parametrize("arm", ["student", "teacher", "own"])
def test_likelihoods_are_those_of_the_whole_text(unequal: Pair, arm: str) -> None:
    model = (unequal.teacher if arm == "teacher" else unequal.student).model
    found = HarnessModel(unequal, None, arm, batch=3).loglikelihood(requests())
    for (value, _), (context, continuation) in zip(found, ASKED, strict=True):
        read, after = ids_of(unequal, context, continuation)
        assert value == pytest.approx(likelihood(model(torch.tensor([read + after[:-1]])).logits, after), abs=1e-3)


@torch.no_grad()
def test_the_bridge_arm_goes_on_from_what_the_teacher_read(unequal: Pair, bridge: Bridge) -> None:
    found = HarnessModel(unequal, bridge, "bridge", batch=2).loglikelihood(requests())
    for (value, _), (context, continuation) in zip(found, ASKED, strict=True):
        read, after = ids_of(unequal, context, continuation)
        cache = bridge(capture(unequal.teacher.model, *pad_left([read[:-1]], unequal.pad)))
        logits = forward(unequal.student.model, cache, *pad_left([read[-1:] + after[:-1]], unequal.pad))
        assert value == pytest.approx(likelihood(logits, after), abs=1e-3)


@pytest.mark.parametrize("arm", HARNESS_ARMS)
def test_a_batch_equals_its_singles(unequal: Pair, bridge: Bridge, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what its contexts begin with is read once, as by large models."""
    monkeypatch.setitem(prefix.COST, "cpu", (0, 0))
    monkeypatch.setitem(globals(), "ASKED", [(f"These are the numbers. {context}", said) for context, said in ASKED])
    started: list[int] = []
    repeat = prefix._repeated
    monkeypatch.setattr(prefix, "_repeated", lambda one, rows: started.append(one.length) or repeat(one, rows))
    together, alone = (HarnessModel(unequal, bridge, arm, batch).loglikelihood(requests()) for batch in (4, 1))
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], abs=1e-3)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
    written, single = (
        HarnessModel(unequal, bridge, arm, batch).generate_until(
            [
                request(context, {"until": ["\n"], "max_gen_toks": 5}, document=i)
                for i, (context, _) in enumerate(ASKED[1:])
            ]
        )
        for batch in (4, 1)
    )
    assert written == single
    assert arm == "disabled" or min(started) > 2  # which reads a last token alone


def test_deranged_is_another_item_even_where_an_item_has_two_contexts(unequal: Pair, bridge: Bridge) -> None:
    """The other context of an item, as in winogrande, tells nearly the same."""
    model, seen = HarnessModel(unequal, bridge, "deranged"), list[Any]()
    run = model.answers.run
    model.answers.run = lambda arm, batch: seen.append(batch) or run(arm, batch)
    contexts = [("Kara sat down, so Kara", 0), ("Kara sat down, so Tona", 0), ("9*8", 1), ("9*8+1*2", 1)]
    model.loglikelihood([request(context, " 4", document=document) for context, document in contexts])
    pairs = [(a.item.id, b.item.id) for batch in seen for a, b in zip(batch.examples, batch.donors, strict=True)]
    assert len(pairs) == 4
    assert all(own != donor for own, donor in pairs)


def test_context_and_continuation_are_one_text_to_the_tokenizer(unequal: Pair) -> None:
    model, tokenizer = HarnessModel(unequal, None, "student"), unequal.tokenizer
    assert model.split("so is ", "it") == model.split("so is", " it")  # spaces belong to the continuation
    read, after = model.split("so is", " it")
    assert decode(tokenizer, read) + decode(tokenizer, after) == "so is it"
    joined = encode(tokenizer, "is")
    assert len(joined) == 1 and len(encode(tokenizer, "i")) == 1
    assert model.split("i", "s") == (tuple(encode(tokenizer, "i")), tuple(encode(tokenizer, "s")))
    assert model.split("", "is") == ((model.prefix_token_id,), tuple(joined))
    with pytest.raises(DataError, match="empty continuation"):
        model.split("so", "")


def test_an_empty_context_is_the_token_that_opens_a_text(unequal: Pair) -> None:
    """As where a choice is scored without its question."""
    model, said = HarnessModel(unequal, None, "student"), ("7 and", "so")
    found = model.loglikelihood([request("", text, document=document) for document, text in enumerate(said)])
    for (value, _), text in zip(found, said, strict=True):
        after = encode(unequal.tokenizer, text)
        logits = unequal.student.model(torch.tensor([[model.prefix_token_id, *after[:-1]]])).logits
        assert value == pytest.approx(likelihood(logits, after), abs=1e-3)


def test_writing_stops_before_the_first_of_the_strings(unequal: Pair) -> None:
    model, context = HarnessModel(unequal, None, "student"), ASKED[0][0]
    ids = pad_left([encode(unequal.tokenizer, context)], unequal.pad)
    whole = decode(unequal.tokenizer, generate(unequal.student.model, None, *ids, 12).tokens[0])
    (said,) = model.generate_until([request(context, {"until": [], "max_gen_toks": 12})])
    assert (said, model.truncated) == (whole, 1)
    mark, later = whole[5:7], whole[9:11]
    (said,) = model.generate_until([request(context, {"until": [later, mark], "max_gen_toks": 12})])
    assert said == min(whole.split(mark)[0], whole.split(later)[0], key=len)
    assert model.truncated == 1


def test_a_rolling_likelihood_is_that_of_each_token_once(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ASKED[3][0]
    ids = encode(unequal.tokenizer, text)
    model = HarnessModel(unequal, None, "student")
    start = [model.prefix_token_id]
    whole = likelihood(unequal.student.model(torch.tensor([start + ids[:-1]])).logits, ids)
    assert model.loglikelihood_rolling([request(text)]) == [pytest.approx(whole, abs=1e-3)]
    monkeypatch.setattr(HarnessModel, "max_length", 9)
    ends, wide = [*range(8, len(ids), 8), len(ids)], start + ids
    inputs = [wide[max(0, end - 8) : end] for end in ends]
    logits = [unequal.student.model(torch.tensor([some])).logits for some in inputs]
    parts = zip(logits, [0, *ends], ends, strict=False)
    expected = sum(likelihood(some, ids[begin:end]) for some, begin, end in parts)
    assert len(ends) > 2
    assert model.loglikelihood_rolling([request(text)]) == [pytest.approx(expected, abs=1e-3)]


REFUSED = {
    "rolling": ("bridge", "loglikelihood_rolling", [request("a text")], "nothing to hand over"),
    "one token": ("bridge", "loglikelihood", [request("", " 4")], "one token"),
    "one item": ("deranged", "loglikelihood", [request("3+4", "=7"), request("3+4", "=8")], "different contexts"),
    "too long": ("student", "loglikelihood", [request("3+4" * 3000, "=7")], "places"),
    "sampling": (
        "student",
        "generate_until",
        [request("3+4", {"do_sample": True, "temperature": 1, "top_p": 0.5})],
        "top_p",
    ),
    "beams": ("student", "generate_until", [request("3+4", {"num_beams": 4})], "num_beams"),
}


@pytest.mark.parametrize(("arm", "kind", "asked", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_answered_is_refused(
    unequal: Pair, bridge: Bridge, arm: str, kind: str, asked: list[Any], words: str
) -> None:
    with pytest.raises(HelmasError, match=words):
        getattr(HarnessModel(unequal, bridge, arm), kind)(asked)


@pytest.mark.parametrize(("arm", "words"), [("text", "text is student"), ("bridg", 'did you mean "bridge"')])
def test_arms_that_there_are_not(unequal: Pair, arm: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        HarnessModel(unequal, None, arm)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ours, where data sets are kept too."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def settings(folder: Path, count: int, *arms: str) -> Config:
    sets = ["data.dataset=arc", f"data.data_dir={folder}", f"eval.limit={count}", "eval.batch=8"]
    return load_config(["lab"], [*sets, f"eval.arms={list(arms)}"])


def test_our_own_evaluation_takes_the_same_letters(
    lab_pair: Pair, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Item by item, on 100 questions: the harness's likelihoods against the letters that our own arms write."""
    monkeypatch.setitem(REGISTRY, "arc", replace(REGISTRY["arc"], gap=""))  # to this tokenizer " A" is two tokens
    task, config = write_task(folder, 120), settings(folder, 100, "student", "teacher")
    examples = prepare(config, lab_pair, "test", 100, 0, Silent())
    ours = evaluate_examples(config, lab_pair, None, examples, ("student", "teacher"), "test", Silent())
    theirs = evaluate_task(config, lab_pair, None, choose_tasks(str(task))[0], None, Silent())
    said = [
        [item["arms"][arm]["text"] for item in found["items"]] for found in (ours, theirs) for arm in config.eval.arms
    ]
    assert said[:2] == said[2:]
    assert len(said[0]) == 100
    assert len(set(said[1])) == 4  # the teacher's letters differ, so that agreeing says something
    assert {arm: row["accuracy"] for arm, row in ours["arms"].items()} == {
        arm: row["acc,none"]
        for arm, row in ((arm, tasks["sums"]) for arm, tasks in theirs["harness"]["results"].items())
    }
    assert ours["outcomes"]["right"]["teacher"].count("1") == theirs["outcomes"]["right"]["teacher"].count("1")


def test_the_harness_finds_the_model_by_its_name(lab_pair: Pair, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its own command does it, but for the thousands of tasks that it would read first."""
    evaluator, tasks = importlib.import_module("lm_eval.evaluator"), importlib.import_module("lm_eval.tasks")
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # asks half the machine for its version
    config = settings(folder, 12, "bridge")
    made = build_bridge(config.bridge, lab_pair).eval()
    save_bridge(folder / "bridge.safetensors", made, describe(config, lab_pair, {}))
    manager = tasks.TaskManager(include_path=str(write_task(folder, 20).parent), include_defaults=False)
    args = f"bridge={folder},arm=bridge,train.seed=5,data.chat_template=False"
    found = evaluator.simple_evaluate(
        "helmas", args, ["sums"], batch_size=5, device="cuda:0", limit=12, task_manager=manager
    )
    ours = evaluate_task(config, lab_pair, made, choose_tasks(str(folder / "sums.yaml"))[0], None, Silent())
    assert ours["arms"]["bridge"]["accuracy"] == round(found["results"]["sums"]["acc,none"], 4)
    assert len(found["samples"]["sums"]) == 12
    model = open_model({"bridge": folder, "arm": "own", "train.seed": 5, "batch_size": "auto", "device": "cpu"})
    assert (model.arm, model.batch, model.answers.seed) == ("own", 8, 5)
    for args, words in (({}, "bridge=RUN"), ({"bridge": folder, "brige": 1}, "brige"), ({"bridge": folder / "x"}, "x")):
        with pytest.raises(HelmasError, match=words):
            open_model(args)


def test_a_folder_is_its_tasks_and_a_group_is_one_report(unequal: Pair, bridge: Bridge, folder: Path) -> None:
    task = write_task(folder, 12)
    shutil.copy(task, folder / "more.yaml")
    (folder / "more.yaml").write_text(task.read_text().replace("task: sums", "task: more"))
    assert [one.name for one in choose_tasks(f"{folder}/")] == ["more", "sums"]
    (folder / "both.yaml").write_text("group: both\ntask: [sums, more]\n")
    (chosen,) = choose_tasks(str(folder / "both.yaml"))
    config = settings(folder, 6, "student", "bridge", "deranged")
    found = evaluate_task(config, unequal, bridge, chosen, 2, Silent())
    assert (found["n"], {item["category"] for item in found["items"]}) == (12, {"sums", "more"})
    assert found["contrasts"].keys() == {"bridge-student", "bridge-deranged"}
    assert found["harness"]["fewshot"] == {"sums": 2, "more": 2}
    assert found["verdict"]["level"] == "too_few"


GENERATED = """
output_type: generate_until
doc_to_target: "{{choices.text[choices.label.index(answerKey)]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 3}
filter_list:
  - name: digits
    filter: [{function: regex, regex_pattern: "([5-9])"}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def test_written_answers_are_read_by_the_tasks_own_filters(lab_pair: Pair, folder: Path) -> None:
    task = write_task(folder, 20)
    head = task.read_text().split("output_type")[0]
    task.write_text(head + 'doc_to_text: "{{question}}"' + GENERATED)
    found = evaluate_task(settings(folder, 20, "teacher"), lab_pair, None, choose_tasks(str(task))[0], None, Silent())
    said = [item["arms"]["teacher"]["text"] for item in found["items"]]
    unread = sum(not any(char in "56789" for char in text) for text in said)
    assert 0 < unread < 20
    assert found["arms"]["teacher"]["unparsed"] == pytest.approx(unread / 20)
    assert found["harness"]["metrics"] == {"sums": "exact_match,digits"}
    assert [item["answer"] for item in found["items"]] == [str(eval(i["question"][:-1])) for i in found["items"]]


def test_tasks_that_cannot_be_had_say_what_to_do(folder: Path) -> None:
    task = write_task(folder, 4)
    text = task.read_text()
    (folder / "empty").mkdir()
    hub = text.replace("dataset_path: json", "dataset_path: nobody/nothing").replace(
        "dataset_kwargs:", "description: x\nx:"
    )
    rolling = text.replace("multiple_choice", "loglikelihood_rolling").replace("metric: acc", "metric: word_perplexity")
    for name, content, words in (
        ("gone.yaml", None, "no such file"),
        ("empty/", None, "no YAML of a task"),
        ("hub.yaml", hub.replace("x:\n  data_files", "metadata:\n  data_files"), "where there is a network"),
        ("rolling.yaml", rolling, "no accuracy"),
    ):
        if content is not None:
            (folder / name).write_text(content)
        with pytest.raises(DataError, match=words) as caught:
            choose_tasks(f"{folder}/{name}")
        assert "\n" not in str(caught.value)
