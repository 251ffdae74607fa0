"""What our evaluation costs beside lm-evaluation-harness's own backend: the same model, prompts and batch."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from bench.evaluation import settings
from bench.measure import Ratio, in_turn
from helmas_core.config import Config
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.handoff.examples import Example
from helmas_core.handoff.prepare import prepare
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import decode
from helmas_core.progress import Silent

BATCH, WRITTEN = 16, 8


def against_harness(pair: Pair, repeats: int, dataset: str, items: int = 64) -> Iterator[Ratio]:
    """The student alone, asked by the harness and by us. Nothing without the harness, an extra of this package."""
    if find_spec("lm_eval") is None:
        return
    config = asked(pair, dataset)
    examples = prepare(config, pair, "test", items, 0, Silent())
    theirs, requests = harness_model(pair), [request(pair, example) for example in examples]
    kind, ask = ("choices", theirs.loglikelihood) if examples[0].choices else ("answers", theirs.generate_until)
    flat = shuffled([one for some in requests for one in some])
    times = in_turn(lambda: ask(flat, disable_tqdm=True), lambda: ours(config, pair, examples), pair.device, repeats)
    yield Ratio(f"evaluation of {items} {kind} of {dataset}", "lm-eval's hf backend", "helmas eval", *times, 1.0)


def asked(pair: Pair, dataset: str) -> Config:
    config = settings(pair, dataset=dataset)
    scored = config.eval.model_copy(update={"batch": BATCH, "max_new_tokens": WRITTEN})
    return config.model_copy(update={"eval": scored})


def ours(config: Config, pair: Pair, examples: Sequence[Example]) -> Any:
    return evaluate_examples(config, pair, None, examples, ("student",), "test", Silent())


def harness_model(pair: Pair) -> Any:
    """The harness's model over our student: it reads and writes with the weights that are loaded."""
    module = importlib.import_module("lm_eval.models.huggingface")
    return module.HFLM(pair.student.model, tokenizer=pair.tokenizer, batch_size=BATCH, device=str(pair.device))


def request(pair: Pair, example: Example) -> list[Any]:
    """What the harness would ask for one item: a likelihood for each choice, or one text."""
    instance = importlib.import_module("lm_eval.api.instance").Instance
    context = pair.tokenizer.decode(list(example.alone))  # with the marks of its chat turns
    if not example.choices:
        limits = {"until": list(example.stop), "max_gen_toks": WRITTEN, "do_sample": False}
        return [instance("generate_until", {}, (context, limits), 0)]
    letters = [decode(pair.tokenizer, [choice]) for choice in example.choices]
    return [instance("loglikelihood", {}, (context, letter), place) for place, letter in enumerate(letters)]


def shuffled(requests: Sequence[Any]) -> list[Any]:
    """In no order that would help either side."""
    return random.Random(0).sample(list(requests), len(requests))
