"""The models of a pair: checked before anything is loaded, put in their places, frozen and probed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import align_module_device, get_max_memory
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from helmas_core import processes, sides
from helmas_core.config import Config, HardwareConfig, PairConfig
from helmas_core.errors import PairError
from helmas_core.models.backends import count_windows_by_token, usable_backend
from helmas_core.models.geometry import probe
from helmas_core.models.hardware import Hardware
from helmas_core.models.latent import Latent
from helmas_core.models.pair import Member, Pair
from helmas_core.models.preflight import (
    Problem,
    alignment_problems,
    model_problems,
    sample_alignment,
    sliding_layers,
)
from helmas_core.models.rope import find_rope
from helmas_core.models.sources import check_local_size, guarded, locate, read_config, read_tokenizer
from helmas_core.models.tokens import Codec, chat_template, content_hash

_MAX_RESIDUAL = 0.02  # bf16 keys differ by about .005 where only rounding does; with a wrong angle by about 1


def find_problems(config: Config) -> list[Problem]:
    """All problems of the pair that show without weights; what cannot be read is one of them."""
    pair, tokens = config.pair, config.data.max_source_tokens
    found: list[Problem] = []
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    for where, (source, revision) in sources(pair).items():
        try:
            config_of = read_config(source, revision)
            found += guarded(partial(model_problems, config_of, where, tokens), source)
            tokenizer = read_tokenizer(source, revision)
            content_hash(tokenizer)
            tokenizers[where] = tokenizer
        except PairError as error:
            found.append(Problem(f"{error.where}: {error.what}", where, error.fix))
    if student := tokenizers.pop("student", None):
        for side, teacher in tokenizers.items():
            found += alignment_problems(sample_alignment(teacher, student), pair.min_alignment, side)
    return found


def sources(pair: PairConfig) -> dict[str, tuple[str, str | None]]:
    """(what it is loaded from, its revision) of every model, under its name in documents."""
    revisions = {"teacher": pair.teacher_revision, "student": pair.student_revision}
    found = sides.by_side((pair.teacher, *pair.more_teachers), pair.student)
    return {side: (source, revisions.get(side)) for side, source in found.items()}


def load_pair(config: Config, hardware: Hardware, notify: Callable[[str], None] = lambda _: None) -> Pair:
    """Pre-flight, then weights. Raises PairError that lists every problem."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    problems = find_problems(config)
    for warning in (p for p in problems if p.severity == "warning"):
        notify(f"{warning.where}: {warning.what}; {warning.fix}")
    if errors := [p for p in problems if p.severity == "error"]:
        listed = "; ".join(f"{p.where} {p.what} ({p.fix})" for p in errors)
        raise PairError(f"this pair cannot be bridged: {listed}", fix="see `helmas doctor`")
    pair = config.pair
    placed = placement(config.hardware, hardware)
    *told, answering = sources(pair).values()
    loaded = (_load(*source, hardware, notify, pair.teacher_bits, placed) for source in told)
    teachers = [replace(teacher, home=hardware.device) for teacher in loaded]
    apart = (pair.teacher_bits, config.hardware.teacher_device)
    same = (*told[0], *apart) == (*answering, None, None)
    student = teachers[0] if same else _load(*answering, hardware, notify)
    if config.data.handoff == "latent":
        teachers = [_thinking(teacher, config.data.latent_steps) for teacher in teachers]
    own, *theirs = (_codec(*source, config.data.chat_template) for source in (answering, *told))
    first, *more = (
        Pair(teacher, student, own.tokenizer, own.template, own.hash, hardware, unlike(codec, own))
        for teacher, codec in zip(teachers, theirs, strict=True)
    )
    return replace(first, more=tuple(more))


def _thinking(member: Member, steps: int) -> Member:
    refuse_offloaded(member)
    return replace(member, latent=Latent(member.model, steps))


def _codec(source: str, revision: str | None, templated: bool) -> Codec:
    tokenizer = read_tokenizer(source, revision)
    return Codec(tokenizer, chat_template(tokenizer, templated), content_hash(tokenizer))


def unlike(teacher: Codec, student: Codec) -> Codec | None:
    """The teacher's, unless the student's tokenizer is the same: then both read the student's ids and template."""
    return None if teacher.hash == student.hash else teacher


def _load(
    source: str,
    revision: str | None,
    hardware: Hardware,
    notify: Callable[[str], None],
    bits: int | None = None,
    placed: Mapping[str, Any] | None = None,
) -> Member:
    """`placed` is what makes transformers put the weights in their places as it loads them; else all go to the pair's
    device."""
    notify(f"loading {source}" + (f" in {bits} bits" if bits else ""))
    where, extra = locate(source)
    known = read_config(source, revision)
    check_local_size(source, known)
    if bits:
        placed = {**_quantised(hardware), **(placed or {})}
    extra = {**extra, **(placed or {})}
    load, attention = AutoModelForCausalLM.from_pretrained, usable_backend(known, hardware.attention)
    if attention != hardware.attention:
        notify(f"{source}: attention {attention}, since this family has no {hardware.attention}")
    model: PreTrainedModel = guarded(
        lambda: load(
            where,
            revision=revision,
            dtype=hardware.dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=None if "gguf_file" in extra else True,
            **extra,
        ),
        source,
    )
    if not placed:
        model.to(hardware.device)  # type: ignore[arg-type]
    elif spread := getattr(model, "hf_device_map", None):
        notify(f"{source} is spread over {', '.join(dict.fromkeys(map(str, spread.values())))}")
    return freeze(source, model)


def placement(asked: HardwareConfig, hardware: Hardware) -> dict[str, Any] | None:
    """What makes transformers load the teacher where `hardware.teacher_device` says; None for the pair's own device.

    Of several processes on one machine each spreads its teacher over GPUs of its own: every Nth, from its own one on.
    """
    if asked.teacher_device is None or asked.teacher_device == str(hardware.device):
        return None
    if asked.teacher_device != "auto":
        return {"device_map": {"": torch.device(asked.teacher_device)}}
    limits = {int(k) if k.isdigit() else k: size for k, size in (asked.teacher_memory or {}).items()}
    place, count = processes.local()
    if count > 1:
        limits = limits or get_max_memory()
        limits = {k: size for k, size in limits.items() if not isinstance(k, int) or k % count == place}
    return {"device_map": "auto", **({"max_memory": limits} if limits else {})}


def refuse_offloaded(member: Member) -> None:
    """Latent steps need the output embeddings at hand."""
    if any(parameter.is_meta for parameter in member.model.parameters()):
        fix = "give it more devices or memory, or choose another data.handoff"
        raise PairError("latent steps need all weights on devices", where="hardware.teacher_device", fix=fix)


def _quantised(hardware: Hardware) -> dict[str, Any]:
    """What makes transformers load weights in 4 bits, with products in the pair's dtype."""
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=hardware.dtype)
    return {"quantization_config": settings, "device_map": {"": hardware.device}}


def freeze(source: str, model: PreTrainedModel) -> Member:
    """A loaded model as a frozen, probed member; refuses one whose RoPE we would undo wrongly."""
    model.eval().requires_grad_(False)
    if sliding_layers(model.config)[1]:
        count_windows_by_token(model)
    ids = torch.arange(2, 18, device=model.device)[None] % model.config.get_text_config(decoder=True).vocab_size
    rope, residual = find_rope(model, ids)
    if not residual <= _MAX_RESIDUAL:
        what = f"its RoPE cannot be undone (residual {residual:.2g})"
        raise PairError(what, where=source, fix="use a model that rotates keys by halves, or not at all")
    revision = getattr(model.config, "_commit_hash", None)
    return Member(source, model, rope, probe(model), revision, fingerprint(model), residual)


def fingerprint(model: PreTrainedModel) -> str:
    """A short hash of all weights, so that a fine-tuned sibling is not taken for the model itself: of every tensor the
    sum of its bits in bf16, whatever it is loaded in, and some of its values."""
    digest = hashlib.sha256()
    for name in sorted(name for name, _ in model.named_parameters()):
        holder = model.get_submodule(name.rpartition(".")[0])
        with align_module_device(holder):  # its weights may lie elsewhere until they are needed
            bits = model.get_parameter(name).detach().flatten().to(torch.bfloat16).view(torch.int16)
            some = bits[:: max(1, bits.numel() // 64 - 1)].cpu().numpy().tobytes()
            digest.update(f"{name} {bits.sum(dtype=torch.int64).item()}".encode() + some)
    return digest.hexdigest()[:16]
