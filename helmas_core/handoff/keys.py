"""What decides what a model produces, as hashes: the names under which it is kept."""

from __future__ import annotations

import hashlib
import json

from helmas_core.models.pair import Member, Pair


def digest(*parts: object) -> str:
    """sha256 of `parts`, which are JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def producer(pair: Pair, member: Member) -> str:
    """The model as far as its output depends on it: weights, configuration, tokenizer, dtype, attention backend.

    Not the device: its output on another one differs in last digits only. Not the name: a copy is the same model.
    """
    settings = member.model.config.get_text_config().to_dict()
    kept = {key: value for key, value in settings.items() if key[0] != "_" and key != "transformers_version"}
    weights = (member.fingerprint, member.revision)
    tokenizer = pair.seen_by(member).tokenizer_hash
    return digest(*weights, kept, tokenizer, str(member.model.dtype), pair.hardware.attention)
