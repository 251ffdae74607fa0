"""What a bridge makes of a teacher's cache: layer by layer, head by head and position by position, beside the teacher's
own cache and the one that the student makes of the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from helmas_core.bridges.base import Bridge, hidden_of
from helmas_core.config import Config
from helmas_core.errors import CacheError, ConfigError, DataError
from helmas_core.evaluation.attention import attention_weights, span_mass, token_mass
from helmas_core.evaluation.measure import cache_figures, cosines, rms_ratios
from helmas_core.evaluation.positions import position_figures, token_text
from helmas_core.handoff.examples import Example
from helmas_core.handoff.prepare import prepare, prepare_item
from helmas_core.handoff.told import Aligned, Told, Written, ids_of, over_student, tell, told_each, told_to
from helmas_core.models.align import tiled
from helmas_core.models.backends import open_backend
from helmas_core.models.cache import KVCache
from helmas_core.models.inject import forward
from helmas_core.models.joint import together
from helmas_core.models.pair import Pair
from helmas_core.models.record import record_queries
from helmas_core.models.tokens import encode, offsets, pad_left
from helmas_core.progress import Silent
from helmas_core.training.losses import attention_output


@dataclass(frozen=True)
class Subject:
    """What is looked at: the ids that are handed over, and those that are read after them. `told` is what the teacher
    reads of the source, `asked` what it reads of the query."""

    source: list[int]
    query: list[int]
    told: Told
    asked: list[int]
    item: str | None = None

    @classmethod
    def of(cls, example: Example) -> Subject:
        asked = list(example.as_teacher.query)
        return cls(list(example.source), list(example.query), example.told, asked, example.item.id)


@dataclass(frozen=True)
class Caches:
    """Three caches of one source: the first teacher's, the student's own, and what the bridge made of `told`, which is
    all teachers' over the student's tokens."""

    teacher: KVCache
    told: KVCache
    own: KVCache
    bridged: KVCache | None


@torch.no_grad()
def inspect_cache(
    config: Config,
    pair: Pair,
    bridge: Bridge | None,
    text: str | None = None,
    item: str | None = None,
    against: Bridge | str | None = None,
) -> dict[str, Any]:
    """The `inspect-cache --json` document for `text`, for the item called `item`, or for the first test item; of the
    teacher's cache alone without a bridge. `against` is another bridge, or the id of another item.

    `layers`, `positions` and `against` compare; `sides` holds each cache by itself; `tokens_read` are the source's
    tokens and `token_mass` the attention that each gets, where the student read and where it was bridged.
    """
    if text is not None and item is not None:
        raise ConfigError("a text and an item exclude each other", where="--prompt", fix="give one of them")
    subject = subject_of(config, pair, text, item)
    caches = make_caches(pair, bridge, subject)
    sides = sides_of(pair, bridge, caches, subject)
    layers = compare(pair, bridge, caches, subject, sides)
    return {
        "schema": 1,
        "command": "inspect-cache",
        "pair": pair.describe(),
        "bridge": None
        if bridge is None
        else {"method": bridge.method, "mode": bridge.mode, **bridge.parameter_counts()},
        "cache": "teacher" if bridge is None else "bridged",
        "item": subject.item,
        "text": pair.tokenizer.decode(subject.source),
        "query": pair.tokenizer.decode(subject.query),
        "tokens": len(subject.source),
        "tokens_read": [token_text(pair, id) for id in subject.source],
        "rope_residual": {side: member.rope_residual for side, member in pair.sides.items()},
        "layers": layers,
        "sides": {name: side["layers"] for name, side in sides.items()},
        "token_mass": {name: [round(m, 6) for m in side["tokens"].tolist()] for name, side in sides.items()},
        **_positions(pair, bridge, caches, subject, sides),
        "against": None if against is None else _against(config, pair, bridge, caches, subject, against),
        **matrices(bridge),
    }


def subject_of(config: Config, pair: Pair, text: str | None, item: str | None) -> Subject:
    """A text's last tenth stands in for the query; an item brings its own."""
    if text is None:
        example = _example(config, pair, item)
        if example.query:
            return Subject.of(example)
        text = example.item.private
    ids = encode(pair.tokenizer, text)
    if len(ids) < 3:
        raise DataError(f"{len(ids)} tokens are too few to inspect", where="--prompt", fix="give a sentence or more")
    cut = max(2, len(ids) - max(1, len(ids) // 10))
    if pair.one_tokenizer:
        return Subject(ids[:cut], ids[cut:], tuple(ids[:cut]), ids[cut:])
    return _parted(pair, text, tiled(offsets(pair.tokenizer, text, len(ids)))[cut - 1][1])


def _parted(pair: Pair, text: str, at: int) -> Subject:
    """`text` cut before the character `at`, each part in the models' own tokens."""
    (source, query), *theirs = (
        [encode(view.tokenizer, part) for part in (text[:at], text[at:])]
        for view in (pair, *(view.as_teacher for view in pair.views))
    )
    if not query or not all(part for both in theirs for part in both):
        raise DataError("nothing is left to be read after the source", where="--prompt", fix="give a sentence or more")
    written = [Written(text[:at], ids, [(0, at)]) for ids in (source, *(told for told, _ in theirs))]
    aligned = (tell(view, told, written[0]) for view, told in zip(pair.views, written[1:], strict=True))
    return Subject(source, query, told_each(aligned), theirs[0][1])


def _example(config: Config, pair: Pair, item: str | None) -> Example:
    if item is None:
        return prepare(config, pair, config.eval.split, 1, config.train.seed, Silent())[0]
    return prepare_item(config, pair, config.eval.split, item, Silent())


def make_caches(pair: Pair, bridge: Bridge | None, subject: Subject) -> Caches:
    """All models read the source; the bridge translates."""
    own = pair.student.read(*pad_left([subject.source], pair.pad, pair.device))
    read = [told_to(subject.told, place) for place in range(len(pair.teachers))]
    padded = [pad_left([ids_of(one)], pair.pad, pair.device) for one in read]
    asked = zip(pair.teachers, padded, hidden_of(bridge, pair), strict=True)
    states = [teacher.read(*ids, hidden) for teacher, ids, hidden in asked]
    told = together([over_student(s, t, [one]) for s, t, one in zip(states, pair.teachers, read, strict=True)])
    return Caches(states[0], told, own, None if bridge is None else bridge(told, own))


def sides_of(pair: Pair, bridge: Bridge | None, caches: Caches, subject: Subject) -> dict[str, dict[str, Any]]:
    """Each cache by itself: figures by layer and head, and how its reader attends to it while it reads the query."""
    sides = {
        "teacher": _side(caches.teacher, attention_weights(pair.teacher.model, caches.teacher, subject.asked)),
        "own": _side(caches.own, attention_weights(pair.student.model, caches.own, subject.query)),
    }
    told = told_to(subject.told, 0)
    if isinstance(told, Aligned):  # by the student's tokens, as the other sides are
        sides["teacher"]["tokens"] = sides["teacher"]["tokens"][list(told.places)]
    if bridge is not None and caches.bridged is not None:
        with bridge.adapted(caches.told):
            weights = attention_weights(pair.student.model, caches.bridged, subject.query)
        sides["bridged"] = _side(caches.bridged, weights)
    return sides


def _side(cache: KVCache, weights: Sequence[Tensor]) -> dict[str, Any]:
    """`mass` is the share of attention on the cached tokens, by layer, and by query head under "query_heads"."""
    masses = span_mass(weights, cache.length)
    layers = [
        {**row, "mass": round(sum(mass) / len(mass), 4), "query_heads": [round(m, 4) for m in mass]}
        for row, mass in zip(cache_figures(cache), masses, strict=True)
    ]
    return {"layers": layers, "tokens": token_mass(weights, cache.length)}


def compare(
    pair: Pair, bridge: Bridge | None, caches: Caches, subject: Subject, sides: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of `layers`: what was injected beside the student's own, or the teacher's alone without a bridge.

    Position by position they are only compared where the bridge keeps the source's length.
    """
    shown, own = sides["teacher" if bridge is None else "bridged"]["layers"], sides["own"]["layers"]
    layers: list[dict[str, Any]] = []
    for index, row in enumerate(shown):
        other = None if bridge is None else own[index]
        figures = ("k_norm", "v_norm", "k_rank", "v_rank", "mass")
        pairs = {key: value for name in figures for key, value in _both(name, row, other).items()}
        empty = dict.fromkeys(("k_cosine", "v_cosine", "k_rms_ratio", "v_rms_ratio", "attention_cosine"))
        layers.append({"layer": index, **pairs, **empty, "heads": []})
    if bridge is not None and caches.bridged is not None:
        if caches.bridged.length == caches.own.length:
            state = caches.told.first(caches.own.length)  # latent steps have no counterpart
            _fill(layers, cosines(*bridge.compared(state, caches.own)), rms_ratios(caches.bridged, caches.own))
        _attend(layers, pair, caches.own, (caches.bridged, caches.own), subject.query)
    return layers


def _both(name: str, row: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: row[name], f"{name}_own": None if other is None else other[name]}


def _fill(layers: list[dict[str, Any]], cosine: Sequence[Tensor], ratio: Sequence[Tensor]) -> None:
    """Cosines and RMS ratios [L, H] of keys and values: per layer the mean, per head under "heads"."""
    columns = {"k_cosine": cosine[0], "v_cosine": cosine[1], "k_rms_ratio": ratio[0], "v_rms_ratio": ratio[1]}
    for index, row in enumerate(layers):
        row.update({name: round(found[index].mean().item(), 4) for name, found in columns.items()})
        row["heads"] = [
            {"head": head, **{name: round(found[index, head].item(), 4) for name, found in columns.items()}}
            for head in range(cosine[0].shape[1])
        ]


def _attend(
    layers: list[dict[str, Any]], pair: Pair, own: KVCache, both: tuple[KVCache, KVCache], query: Sequence[int]
) -> None:
    """Cosine of what the query's tokens read from either of `both`, with the queries that they have after `own`; left
    out for a student whose queries cannot be recorded."""
    if not open_backend(pair.student.model.config):
        return
    ids, mask = pad_left([query], 0, own.mask.device)
    with record_queries(pair.student.model) as seen:
        forward(pair.student.model, own, ids, mask)
    for row, q, scale, cap in zip(layers, seen.queries, seen.scales, seen.caps, strict=True):
        at = row["layer"]
        ours, theirs = (attention_output(q, cache.keys[at], cache.values[at], cache.mask, scale, cap) for cache in both)
        cosine = cosine_similarity(ours, theirs, dim=-1)  # [1, Hq, N]
        row["attention_cosine"] = round(cosine.mean().item(), 4)
        for head, value in zip(row["heads"], _by_kv_head(cosine, len(row["heads"])), strict=False):
            head["attention_cosine"] = round(value, 4)


def _by_kv_head(cosine: Tensor, heads: int) -> list[float]:
    """[1, Hq, N] → the mean of each KV head's query heads."""
    return [] if not heads else cosine[0].mean(-1).reshape(heads, -1).mean(-1).tolist()


def _positions(
    pair: Pair, bridge: Bridge | None, caches: Caches, subject: Subject, sides: Mapping[str, Any]
) -> dict[str, Any]:
    """`positions`, or none and the reason under `notes`."""
    if bridge is None or caches.bridged is None:
        return {"positions": [], "notes": []}
    if caches.bridged.length != caches.own.length:
        return {"positions": [], "notes": ["no positions: the bridge does not keep the source's length"]}
    forms = bridge.standard_form(caches.bridged), bridge.standard_form(caches.own)
    try:
        mass = sides["bridged"]["tokens"]
        return {
            "positions": position_figures(pair, subject.source, caches.bridged, caches.own, forms, mass),
            "notes": [],
        }
    except (CacheError, ConfigError) as error:
        return {"positions": [], "notes": [f"no positions: {error.what}"]}


def _against(
    config: Config, pair: Pair, bridge: Bridge | None, caches: Caches, subject: Subject, other: Bridge | str
) -> dict[str, Any]:
    """The bridged cache beside another bridge's of the same source, or beside its own of another item."""
    if bridge is None or caches.bridged is None:
        raise ConfigError("a comparison needs a bridge", where="--against", fix="give --bridge PATH")
    if isinstance(other, str):
        foreign = make_caches(pair, bridge, subject_of(config, pair, None, other)).bridged
    else:
        foreign = other(caches.told, caches.own)
    assert foreign is not None
    layers: list[dict[str, Any]] = [{**row, "heads": []} for row in cache_figures(foreign)]
    if foreign.length == caches.bridged.length:
        forms = bridge.standard_form(caches.bridged), bridge.standard_form(foreign)
        _fill(layers, cosines(*forms), rms_ratios(caches.bridged, foreign))
    _attend(layers, pair, caches.own, (caches.bridged, foreign), subject.query)
    return {"item": other if isinstance(other, str) else None, "tokens": foreign.length, "layers": layers}


def matrices(bridge: Bridge | None) -> dict[str, dict[str, list[Any]] | None]:
    """`blend` [2, Ls, Lt] and `gate` [2, Ls, Hs] as {"k": …, "v": …}; None for what the bridge does not have. Several
    teachers' shares are `teachers` [2, Ls, N]."""
    found = {} if bridge is None else bridge.diagnostics()
    names = ("blend", "gate", *(["teachers"] if "teachers" in found else []))
    return {name: _matrix(found.get(name)) for name in names}


def _matrix(found: Tensor | None) -> dict[str, list[Any]] | None:
    if found is None:
        return None
    return {name: [[round(x, 4) for x in row] for row in found[i].tolist()] for i, name in enumerate("kv")}
