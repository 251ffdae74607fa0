"""The model card of a bridge: README.md with YAML at its head, written from what the bridge and its reports say of
themselves. No torch here. Whatever comes from models and data is escaped, in Markdown and in YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from helmas_core.data.tasks import REGISTRY
from helmas_core.plain import printable
from helmas_core.report import tables
from helmas_core.report.document import Document
from helmas_core.report.markdown import escape, picture, table
from helmas_core.sides import described

Record = Mapping[str, Any]
LIBRARY = "helmas"
TAGS = ("helmas", "kv-cache", "knowledge-transfer", "text-generation")
THEIRS = ("license", "license_name", "license_link", "language")  # what a person adds to a card stays
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_PLAIN_NAME = re.compile(r"[\w:@./-]+", re.ASCII)
_LIMITS = (
    "It fits exactly this pair: shapes, weights and tokenizer are compared when it is loaded, and anything else is "
    "refused.",
    "The intervals say which items might have been drawn, not how another training seed would have come out.",
    "The result is bridge − deranged: what is left when the student gets another item's cache is no content.",
    "A familiar task's answer travels more easily than arbitrary content.",
)


@dataclass(frozen=True)
class Subject:
    """What a card is about: where it will lie, the bridge's own document, its evaluations and their figures."""

    where: str
    document: Record
    reports: Sequence[Record] = ()
    figures: Document = field(default_factory=lambda: Document([]))
    facts: Record = field(default_factory=dict)
    theirs: Record = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.where.rstrip("/").rpartition("/")[2].partition("@")[0] or LIBRARY

    @property
    def sides(self) -> dict[str, Record]:
        """What is said of each model, the teachers first."""
        return described(self.document["pair"])

    def model(self, side: str) -> str:
        return str(self.document["pair"][side].get("id"))

    def more(self) -> list[str]:
        """The further teachers' names, "OWNER/NAME" where nobody else can load one by it."""
        names = [self.model(side) for side in self.sides if side.startswith("teacher_")]
        return [name if _found(name) else "OWNER/NAME" for name in names]

    def unknown(self) -> list[str]:
        """The sides whose model nobody else can load by its name."""
        return [side for side in self.sides if not _found(self.model(side))]


def card(subject: Subject) -> str:
    """The whole README.md."""
    parts = [f"# {escape(subject.name)}", _about(subject), *_use(subject), "## Pair", _pair(subject)]
    parts += ["## Bridge", _list(_bridge(subject)), "## Results", *_results(subject)]
    parts += ["## Overlap and limits", "\n".join(f"- {line}" for line in _limits(subject))]
    return f"---\n{_head(subject)}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def theirs_in(text: str) -> dict[str, Any]:
    """What a person may have added to a card that lies there already: licence and language."""
    if not text.startswith("---"):
        return {}
    try:
        found = ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # whatever a card holds that YAML does not read, it is replaced as a whole
        return {}
    return {key: found[key] for key in THEIRS if found.get(key) and not set("<>") & set(str(found[key]))}


def plain(text: Any) -> str:
    """A name for the YAML, which a viewer that knows none shows as Markdown: letters, digits and a few signs."""
    return re.sub(r"[^\w :.,@/+()-]+", "-", printable(" ".join(str(text).split()))).strip("- ") or "unnamed"


def _head(subject: Subject) -> str:
    """YAML that the hub reads."""
    models = [subject.model(side) for side in subject.sides]
    known = [REGISTRY[name].hub for name in _learnt(subject) if name in REGISTRY]
    results = [result for report in subject.reports for result in _scores(report)]
    data = ModelCardData(
        library_name=LIBRARY,
        tags=list(TAGS),
        base_model=list(dict.fromkeys(filter(_HUB_ID.fullmatch, models))) or None,
        datasets=list(dict.fromkeys(hub.id for hub in known if hub)) or None,
        model_name=plain(subject.name),
        eval_results=results or None,
        **{key: value for key, value in subject.theirs.items() if key in THEIRS},
    )
    return data.to_yaml().strip()


def _learnt(subject: Subject) -> list[str]:
    return [name.strip() for name in str(subject.document["training"].get("dataset") or "").split(",")]


def _scores(report: Record) -> Iterator[EvalResult]:
    """The bridge's accuracy, and how much of it is content."""
    name, arms = plain(report["dataset"]), report["arms"]
    hub = REGISTRY[name].hub if name in REGISTRY else None
    place: dict[str, Any] = {
        "task_type": "text-generation",
        "dataset_type": hub.id if hub else name,
        "dataset_name": name,
        "dataset_config": hub.config if hub else None,
        "dataset_split": plain(report["split"]),
    }
    effect = (report.get("contrasts") or {}).get("bridge-deranged")
    if "bridge" in arms:
        accuracy = float(arms["bridge"]["accuracy"])
        yield EvalResult(metric_type="accuracy", metric_name="bridge", metric_value=accuracy, **place)
    if effect:
        yield EvalResult(
            metric_type="accuracy", metric_name="bridge − deranged", metric_value=float(effect["delta"]), **place
        )


def _about(subject: Subject) -> str:
    *teachers, student = (f"**{escape(subject.model(side))}**" for side in subject.sides)
    caches = "the KV cache of" if len(teachers) == 1 else "the KV caches of"
    go = "goes" if len(teachers) == 1 else "go"
    return (
        f"A bridge for helmas: {caches} {' and '.join(teachers)} {go} through it into {student}, which answers as if "
        "it had read, and thought, itself."
    )


def _use(subject: Subject) -> list[str]:
    """Two commands, and what they need."""
    local = subject.unknown()
    models = "".join(f" -s {one}" for one in _named_again(subject, local))
    evaluated = next((str(r["dataset"]) for r in subject.reports if _PLAIN_NAME.fullmatch(str(r["dataset"]))), None)
    data = f" --dataset {evaluated}" if evaluated and not evaluated.startswith(("jsonl:", "text:", "cloze:")) else ""
    where = subject.where if _PLAIN_NAME.fullmatch(subject.where) else "DIR"
    lines = [f"helmas chat --bridge {where}{models}", f"helmas eval --bridge {where}{models}{data}"]
    needs = (
        f"`DIR` is a folder with the {' and the '.join(side.replace('_', ' ') for side in local)} named below. "
        if local
        else ""
    )
    safe = "`bridge.safetensors` holds weights and one JSON string; nothing in this repository is executed."
    return ["## Use", "```bash\n" + "\n".join(lines) + "\n```", needs + safe]


def _named_again(subject: Subject, local: Sequence[str]) -> Iterator[str]:
    """What says where the `local` models lie; further teachers are named all together."""
    first, more = ("teacher", "student"), [side for side in subject.sides if side not in ("teacher", "student")]
    yield from (f"pair.{side}=DIR" for side in local if side in first)
    if not set(more).isdisjoint(local):
        known = {side: subject.model(side) for side in more if side not in local}
        names = [name if _PLAIN_NAME.fullmatch(name) else "DIR" for name in (known.get(side, "DIR") for side in more)]
        yield f"'pair.more_teachers={json.dumps(names)}'"


def _found(model: str) -> bool:
    """Whether anyone who has helmas can load `model` by its name."""
    return model.startswith("lab:") or bool(_HUB_ID.fullmatch(model))


def _pair(subject: Subject) -> str:
    rows = {"model": "id", "revision": "revision", "type": "model_type", "layers": "layers", "KV heads": "kv_heads"}
    rows |= {"head dim": "head_dim", "parameters": "parameters", "weights, hashed": "fingerprint"}
    cells = [[name, *(_value(member.get(key)) for member in subject.sides.values())] for name, key in rows.items()]
    return table(["", *(side.replace("_", " ") for side in subject.sides)], cells)


def _value(value: Any) -> str:
    return tables.number(value) if value is None or isinstance(value, int | float) else str(value)


def _bridge(subject: Subject) -> dict[str, Any]:
    """Method, size and training, by name."""
    config, training = subject.document["config"], subject.document["training"]
    section, data = config["bridge"], config["data"]
    options = {key: value for key, value in section.items() if key not in ("method", "mode") and value is not None}
    stages = ", ".join(f"{one['name']} {one['steps']} ({', '.join(one['losses'])})" for one in training["stages"])
    shares = training.get("mix") or {}
    return {
        "method": f"{section['method']}, {section.get('mode')}",
        "options": ", ".join(f"{key} {_value(value)}" for key, value in options.items()),
        **subject.facts,
        "hand-off": _handoff(data),
        "trained on": f"{training.get('dataset')}, {training.get('split')}, {_value(training.get('items'))} items",
        "mix": ", ".join(f"{name} {share:.1%}" for name, share in shares.items()),
        "steps": f"{_value(training.get('steps'))}" + (f": {stages}" if stages else ""),
        "seed": str(training.get("seed")),
        "control": "trained with shuffled caches" if training.get("shuffled") else "",
    }


def _handoff(data: Record) -> str:
    if data["handoff"] == "reasoning":
        return f"reasoning, {data['reasoning']}" + (", without its last step" if data.get("cut_last_step") else "")
    return f"latent, {data['latent_steps']} steps" if data["handoff"] == "latent" else str(data["handoff"])


def _list(facts: Record) -> str:
    return "\n".join(f"- {escape(name)}: {escape(_value(value))}" for name, value in facts.items() if value != "")


def _results(subject: Subject) -> list[str]:
    if not subject.reports:
        return ["Not evaluated yet."]
    sections = zip(subject.reports, subject.figures.sections, strict=True)
    seed = subject.document["training"].get("seed")
    return [part for report, section in sections for part in _result(report, section.pictures[:1], seed)]


def _result(report: Record, pictures: Sequence[Any], seed: Any) -> list[str]:
    manifest = report.get("manifest") or {}
    head, rows = tables.arms_table(report)
    seeds = f"trained with seed {_value(seed)}, evaluated with seed {_value(manifest.get('seed'))}"
    how = f"{seeds}, batch {_value(manifest.get('batch'))}; 95 % Wilson intervals, paired bootstrap for contrasts."
    verdict = tables.verdict_of(report)
    return [
        f"### {escape(str(report['dataset']))} · {escape(str(report['split']))} · n = {int(report['n'])}",
        f"**{escape(verdict)}**" if verdict else "",
        *(f"> warning: {escape(str(line))}" for line in report.get("warnings") or []),
        table(head[:4], [row[:4] for row in rows]),
        table(*tables.contrasts_table(report)),
        escape(how[0].upper() + how[1:]),
        *(picture(one, "figures") for one in pictures),
    ]


def _limits(subject: Subject) -> Iterator[str]:
    hashes = subject.document["training"].get("hashes")
    if hashes is None:
        yield "The bridge does not tell which items it has learnt."
    for report in subject.reports:
        name, overlap, exact = escape(str(report["dataset"])), report.get("overlap"), report.get("exactness")
        if overlap:
            learnt, shared = _value(overlap.get("trained_on")), len(overlap.get("items") or ())
            yield f"{name}: of {int(report['n'])} items, {shared} are among the {learnt} that the bridge has learnt."
        if exact:
            differ, ties = len(exact.get("differ") or ()), len(exact.get("ties") or ())
            yield (
                f"{name}: the student's own cache, injected, and the text gave other tokens on {differ + ties} of "
                f"{int(exact['compared'])} items ({ties} ties of half precision)."
            )
    yield from _LIMITS
