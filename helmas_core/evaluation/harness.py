"""An arm as a model of lm-evaluation-harness, an extra: any of its tasks runs over a bridged pair.

A request's context is cut by token, not by text: the teacher reads all but its last token, and with that one the
student goes on from the hand-off. All arms see the same ids, so `text` would be `student` here. The continuations of
one context, a question's choices, follow one hand-off.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from helmas_core.bridges.artefact import load_bridge, read_metadata
from helmas_core.bridges.base import Bridge
from helmas_core.config import ARMS, CONTROLS
from helmas_core.errors import ConfigError, DataError, PairError, did_you_mean
from helmas_core.evaluation.arms import Batch, batches
from helmas_core.evaluation.harness_answers import Answers, Asked, Decoding, Scored, asked_of
from helmas_core.handoff.states import Ids
from helmas_core.layering import load_config
from helmas_core.models.hardware import resolve_hardware
from helmas_core.models.inject import Generation
from helmas_core.models.loading import load_pair
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import decode, encode, encode_start
from helmas_core.progress import Progress, Silent, Stopped
from helmas_core.runs import bridge_file

importlib.import_module("lm_eval.models")  # the harness knows its own models only if this comes before ours
LM: Any = importlib.import_module("lm_eval.api.model").LM
register_model: Any = importlib.import_module("lm_eval.api.registry").register_model
windows: Any = importlib.import_module("lm_eval.utils")

HARNESS_ARMS = tuple(arm for arm in (*ARMS, *CONTROLS) if arm != "text")
PLAIN = ("student", "teacher")  # hand nothing over


@register_model("helmas")
class HarnessModel(LM):
    """One `arm` of a pair and a bridge, `batch` contexts at once. `truncated` counts answers that ran out of tokens.

    Raises DataError for a request that the arm cannot answer whole: nothing is cut off or left out.
    """

    def __init__(
        self,
        pair: Pair,
        bridge: Bridge | None,
        arm: str = "bridge",
        batch: int = 8,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        check_arm(arm)
        if not pair.one_tokenizer and arm != "student":
            what = "the harness gives one tokenizer's ids, and the two models have different ones"
            raise PairError(what, where=f"arm {arm}", fix="run it over student, or use helmas eval --dataset")
        self.pair, self.arm, self.batch, self.progress = pair, arm, batch, progress or Silent()
        self.tokenizer, self.answers = pair.tokenizer, Answers(pair, bridge, 0, seed=seed)
        self._device, self.truncated = pair.device, 0

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> HarnessModel:
        """The model of `--model_args bridge=RUN,arm=NAME`, and any section.key=value over what the bridge says."""
        given = {key: value for key, value in (additional_config or {}).items() if value is not None}
        return open_model({**arg_dict, **given})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> HarnessModel:
        return cls.create_from_arg_obj(windows.simple_parse_args_string(arg_string), additional_config)

    @property
    def max_length(self) -> int:
        """Places that all models have."""
        texts = (member.model.config.get_text_config() for member in self.pair.sides.values())
        return min(int(text.max_position_embeddings) for text in texts)

    @property
    def eot_token_id(self) -> int:
        end = self.tokenizer.eos_token_id
        return end if isinstance(end, int) else self.pair.pad

    @property
    def prefix_token_id(self) -> int:
        """What an empty context becomes."""
        begin = self.tokenizer.bos_token_id
        return begin if isinstance(begin, int) else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return self.pair.tokenizer_hash

    def chat_template(self, chat_template: bool | str = False) -> str:  # noqa: ARG002 - there is but one
        return str(self.tokenizer.chat_template or "")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not self.tokenizer.chat_template:
            raise PairError("the tokenizer has no chat template", fix="leave --apply_chat_template out")
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                enable_thinking=False,
            )
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text that opens a sequence; a beginning token that a chat template wrote is not doubled."""
        written = self.tokenizer.bos_token and text.startswith(str(self.tokenizer.bos_token))
        return encode(self.tokenizer, text) if written else encode_start(self.tokenizer, text, None)

    def split(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        """Ids of both as the harness has them: spaces that end the context open the continuation, and the tokenizer
        sees one text. Where it would join the two in one token, the context keeps its ids and the continuation is
        tokenised alone, so that all choices follow the same context."""
        kept = context.rstrip()
        rest = context[len(kept) :] + continuation
        read, whole = self.encode(kept) if kept else [self.prefix_token_id], self.encode(kept + rest)
        joined = kept and whole[: len(read)] == read
        after = whole[len(read) :] if joined else encode(self.tokenizer, rest)
        if not after:
            raise DataError("an empty continuation cannot be scored", where=repr(context[-40:]), fix="mend the task")
        return tuple(read), tuple(after)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return self._score([_document(one) for one in requests], [self.split(*one.args[:2]) for one in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of whole texts, in windows; ConfigError for an arm that needs a place at which something is handed over."""
        if self.arm not in PLAIN:
            what = "a rolling likelihood scores every token after those before it, so there is nothing to hand over"
            raise ConfigError(what, where=f"arm {self.arm}", fix=f"run it over {' and '.join(PLAIN)}")
        parts = [self._windows(one.args[0]) for one in requests]
        documents = [_document(one) for one, some in zip(requests, parts, strict=True) for _ in some]
        scores = iter(self._score(documents, [pair for some in parts for pair in some]))
        return [sum(next(scores)[0] for _ in some) for some in parts]

    def _windows(self, text: str) -> list[tuple[Ids, Ids]]:
        ids, start = encode(self.tokenizer, text), self.prefix_token_id
        cut = windows.get_rolling_token_windows(ids, start, self.max_length - 1, 1)
        return [(tuple(read), tuple(after)) for read, after in map(windows.make_disjoint_window, cut)]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        kinds: dict[Decoding, list[int]] = {}
        for place, one in enumerate(requests):
            kinds.setdefault(Decoding.of(one.args[1]), []).append(place)
        found: dict[int, str] = {}
        for how, places in kinds.items():
            rows = ((_document(requests[place]), self._context(requests[place]), place) for place in places)
            asked = [asked_of(document, ids, [place], decoding=how) for document, ids, place in rows]
            for group, written in self._run(asked):
                self.truncated += sum(written.truncated)
                for one, tokens in zip(group, written.tokens, strict=True):
                    found[one.places[0]] = how.cut(decode(self.tokenizer, tokens))
        return [found[place] for place in range(len(requests))]

    def _context(self, request: Any) -> Ids:
        return tuple(self.encode(request.args[0]) or [self.prefix_token_id])

    def _score(self, documents: Sequence[str], pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        shared: dict[tuple[str, Ids], list[int]] = {}
        for place, (document, (context, _)) in enumerate(zip(documents, pairs, strict=True)):
            shared.setdefault((document, context), []).append(place)
        asked = [
            asked_of(document, context, places, continuations=tuple(pairs[place][1] for place in places))
            for (document, context), places in shared.items()
        ]
        found: dict[int, tuple[float, bool]] = {}
        for group, written in self._run(asked):
            assert isinstance(written, Scored)
            for one, scores in zip(group, written.scores, strict=True):
                found |= zip(one.places, scores, strict=True)
        return [found[place] for place in range(len(pairs))]

    def _run(self, asked: Sequence[Asked]) -> Iterator[tuple[list[Asked], Generation]]:
        """Each batch and its answers."""
        groups = batches(asked, self.batch)
        self._check(asked, groups)
        self.progress.start(f"lm-eval, {self.arm}", len(groups))
        for index, group in enumerate(groups):
            if self.progress.stop_requested():
                self.progress.finish()
                raise Stopped
            with torch.no_grad():
                written = self.answers.run(self.arm, group)
            yield [example for example in group.examples if isinstance(example, Asked)], written
            self.progress.update(index + 1)
        self.progress.finish()

    def _check(self, asked: Sequence[Asked], groups: Sequence[Batch]) -> None:
        """Refuse what does not fit, and what an arm that hands something over has nothing for."""
        if longest := max((one.length for one in asked if one.length > self.max_length), default=0):
            what = f"a context and what follows it are {longest} tokens, the models have {self.max_length} places"
            raise DataError(what, where="lm-eval", fix="ask for fewer worked examples, or shorter answers")
        if self.arm not in PLAIN and not all(one.source for one in asked):
            what = "a context of one token leaves the teacher nothing to read"
            raise DataError(what, where=f"arm {self.arm}", fix=f"run this task over {' and '.join(PLAIN)}")
        pairs = ((own, donor) for group in groups for own, donor in zip(group.examples, group.donors, strict=True))
        if self.arm == "deranged" and any(own.source == donor.source for own, donor in pairs):
            what = "the deranged arm needs items with different contexts"
            raise ConfigError(what, where="arm deranged", fix="raise --limit, or leave the arm out")


def check_arm(arm: str) -> None:
    """ConfigError for an arm that the harness cannot run over."""
    if arm not in HARNESS_ARMS:
        fix = "text is student here: both read it all" if arm == "text" else did_you_mean(arm, HARNESS_ARMS)
        raise ConfigError(f'no arm "{arm}" for lm-eval', where="arm", fix=fix)


def _document(request: Any) -> str:
    return f"{request.task_name} {request.doc_id}"


def open_model(args: Mapping[str, Any]) -> HarnessModel:
    """The model that `args` name: `bridge`, a file or its run folder; `arm`; `batch_size`; `device`; and section.key of
    the configuration that the bridge carries."""
    named = {key: value for key, value in args.items() if key != "max_batch_size"}
    path, arm = named.pop("bridge", None), str(named.pop("arm", "bridge"))
    batch, device = named.pop("batch_size", None), named.pop("device", None)
    check_arm(arm)
    if path is None:
        raise ConfigError("no bridge given", where="--model_args", fix="write --model_args bridge=RUN,arm=bridge")
    if device == "cpu":  # the harness says cuda where nobody said anything
        named["hardware.device"] = device
    file = bridge_file(Path(str(path)))
    sets = [f"{key}={_toml(value)}" for key, value in named.items()]
    config = load_config(sets=sets, base=read_metadata(file)["config"])
    pair = load_pair(config, resolve_hardware(config))
    size = config.eval.batch if batch is None or str(batch).startswith("auto") else int(batch)
    return HarnessModel(pair, load_bridge(file, pair), arm, size, config.train.seed)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
