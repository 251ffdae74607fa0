"""`channel:NAME[@TOKENS]`: tasks that measure the channel itself, at any length of what the teacher reads."""

from __future__ import annotations

import random
import re

from helmas_core.data import parse
from helmas_core.data.channels.code import code
from helmas_core.data.channels.copy import copy
from helmas_core.data.channels.digits import digits
from helmas_core.data.channels.facts import facts
from helmas_core.data.channels.filler import fill
from helmas_core.data.channels.invented import invented
from helmas_core.data.channels.languages import languages
from helmas_core.data.channels.rare import rare
from helmas_core.data.channels.told import Channel, Told
from helmas_core.data.item import Item
from helmas_core.data.task import TRAIN_ONLY, Task
from helmas_core.errors import DataError, did_you_mean

CHANNELS: dict[str, Channel] = {
    "code": code,
    "copy": copy,
    "digits": digits,
    "facts": facts,
    "invented": invented,
    "languages": languages,
    "rare": rare,
}
CUE = "\nAnswer:"
CHARACTERS_PER_TOKEN = 3.3  # of what is told: names and numbers take more tokens than plain words


def channel_task(name: str) -> Task:
    """The task of `channel:NAME` or `channel:NAME@TOKENS`. DataError for an unknown name or another form."""
    found = re.fullmatch(r"channel:([^@]*)(?:@([1-9]\d{0,5}))?", name)
    if found is None:
        raise DataError("not a channel's name", where=name, fix="write channel:NAME or channel:NAME@TOKENS")
    channel, tokens = found[1], int(found[2] or 0)
    if channel not in CHANNELS:
        raise DataError(f'unknown channel "{channel}"', where=name, fix=did_you_mean(channel, CHANNELS))

    def items(split: str, count: int, seed: int) -> list[Item]:
        return [make_item(channel, tokens, split, seed, index) for index in range(count)]

    return Task(name, parse.TEXT, TRAIN_ONLY, generator=items, cue=CUE)


def make_item(channel: str, tokens: int, split: str, seed: int, index: int) -> Item:
    """Item `index`: at every length the same facts and question, with more or less filler around them."""
    place = f"{channel}/{split}/{seed}/{index}"
    told = CHANNELS[channel](random.Random(place), split)
    private = padded(told, tokens, random.Random(f"{place}/filler"))
    length = f"@{tokens}" if tokens else ""
    name = "-".join(filter(None, [f"{channel}{length}", split, str(seed), str(index), told.kind]))
    return Item(name, told.question, told.answer, private=private, cue=CUE, category=told.kind)


def padded(told: Told, tokens: int, rng: random.Random) -> str:
    """The private text of about `tokens` tokens: its sentences in their order, at random places among filler."""
    own = sum(map(len, told.sentences)) / CHARACTERS_PER_TOKEN
    filler = fill(rng, tokens - own, told.filler)
    if told.apart:
        return told.joint.join([*told.sentences, *filler])
    places = sorted(rng.choices(range(len(filler) + 1), k=len(told.sentences)))
    for place, sentence in reversed(list(zip(places, told.sentences, strict=True))):
        filler.insert(place, sentence)
    return told.joint.join(filler)
