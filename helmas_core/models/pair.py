"""Teacher and student, loaded, frozen, probed and checked against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import align_module_device, get_max_memory
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from helmas_core import processes, sides
from helmas_core.config import Config, HardwareConfig, PairConfig
from helmas_core.errors import ConfigError, HelmasError, PairError
from helmas_core.foreign import why
from helmas_core.models.backends import count_windows_by_token, usable_backend
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.folder import check_settings, check_size, weights_held
from helmas_core.models.geometry import Geometry, probe
from helmas_core.models.hardware import Hardware
from helmas_core.models.latent import Latent
from helmas_core.models.preflight import (
    Problem,
    alignment_problems,
    model_problems,
    sample_alignment,
    sliding_layers,
)
from helmas_core.models.rope import Rope, find_rope
from helmas_core.models.tokens import ChatTemplate, Codec, chat_template, content_hash

Result = TypeVar("Result")
LAB = "lab:"
_MAX_RESIDUAL = 0.02  # bf16 keys differ by about .005 where only rounding does; with a wrong angle by about 1


@dataclass(frozen=True)
class Member:
    """One model of the pair."""

    id: str
    model: PreTrainedModel
    rope: Rope
    geometry: Geometry
    revision: str | None
    fingerprint: str
    rope_residual: float
    latent: Latent | None = None  # steps that it thinks after what it reads
    home: torch.device | None = None  # where the pair wants what it keeps, if that is not where it computes

    @property
    def latent_steps(self) -> int:
        return 0 if self.latent is None else self.latent.steps

    @property
    def device(self) -> torch.device:
        """Where its caches are wanted; ids that it is to read are given there too."""
        return self.home or self.model.device

    def read(self, ids: Tensor, mask: Tensor, hidden: Sequence[int] = ()) -> KVCache:
        """What it keeps of `ids` [B, T], T places or those of its latent steps more. No gradient."""
        if self.latent is None:
            return capture(self.model, ids, mask, hidden)
        return self.latent.read(ids, mask, hidden)

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            **self.geometry.shape(),
            "parameters": self.geometry.parameters,
        }


@dataclass(frozen=True)
class Pair:
    """Tokenizer and template are the student's, and the teacher's too unless it has a `codec` of its own.

    Of several teachers `teacher` is the first one, which also thinks and answers; `more` are the pairs of the same
    student with those that read beside it.
    """

    teacher: Member
    student: Member
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate | None
    tokenizer_hash: str
    hardware: Hardware
    codec: Codec | None = None
    more: tuple[Pair, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.hardware.device

    @property
    def views(self) -> tuple[Pair, ...]:
        """The student with each teacher alone, the first one first."""
        return (replace(self, more=()), *self.more)

    @property
    def teachers(self) -> tuple[Member, ...]:
        return (self.teacher, *(view.teacher for view in self.more))

    @property
    def one_tokenizer(self) -> bool:
        """Whether all models read the same ids."""
        return all(view.codec is None for view in self.views)

    @property
    def sides(self) -> dict[str, Member]:
        """Every model under its name in documents."""
        return sides.by_side(self.teachers, self.student)

    @property
    def pad(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(i for i in known if isinstance(i, int))

    @property
    def as_teacher(self) -> Pair:
        """The pair with the teacher's tokenizer and template: for what the teacher reads and writes."""
        if self.codec is None:
            return self
        own = {"tokenizer": self.codec.tokenizer, "template": self.codec.template, "tokenizer_hash": self.codec.hash}
        return replace(self, **own, codec=None, more=())

    def seen_by(self, member: Member) -> Pair:
        """The pair with the tokenizer and template of `member`."""
        return next((view.as_teacher for view in self.views if view.teacher is member), self)

    def describe(self) -> dict[str, Any]:
        teachers = zip(list(self.sides)[:-1], self.views, strict=True)
        return {
            **{name: member.describe() for name, member in self.sides.items()},
            "tokenizer": self.tokenizer_hash,
            **{f"{side}_tokenizer": view.codec.hash for side, view in teachers if view.codec},
            "dtype": str(self.hardware.dtype).removeprefix("torch."),
            "attention": self.hardware.attention,
            "device": self.hardware.device.type,
        }


def locate(source: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` takes for a hub id, a folder, a `.gguf` file or `lab:NAME`."""
    if source.startswith(LAB):
        folder = Path(__file__).parents[1] / "lab" / source.removeprefix(LAB)
        if not folder.is_dir():
            raise PairError(f'no lab model "{source}"', where="pair", fix="use lab:teacher or lab:student")
        return str(folder), {}
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise PairError("no such GGUF file", where=source, fix="check the path")
        return str(path.parent), {"gguf_file": path.name}
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_local and not path.is_dir():
        raise PairError("no such model folder", where=source, fix="check the path, or give a hub id like owner/name")
    return (str(path) if path.is_dir() else source), {}


def _checked(source: str) -> tuple[str, dict[str, str]]:
    """`locate`, after a look through what lies there; models of the hub are as the hub has them."""
    where, extra = locate(source)
    if extra:
        weights_held(Path(where, extra["gguf_file"]))
    elif Path(where).is_dir():
        check_settings(Path(where))
    return where, extra


def guarded(call: Callable[[], Result], source: str) -> Result:
    """What a library makes of a model's files; whatever else than memory fails it, is a PairError."""
    try:
        return call()
    except (HelmasError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        fix = "use a model that transformers knows"
        if isinstance(error, OSError):
            fix = "give a local folder, or download the model first where there is a network"
        raise PairError(f"cannot load: {why(error)}", where=source, fix=fix) from error


def read_config(source: str, revision: str | None = None) -> PretrainedConfig:
    where, extra = _checked(source)
    return guarded(
        lambda: AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False, **extra), source
    )


def read_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    where, extra = _checked(source)
    load = AutoTokenizer.from_pretrained
    return guarded(lambda: load(where, revision=revision, trust_remote_code=False, **extra), source)


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


def check_local_size(source: str, config: PretrainedConfig) -> None:
    """PairError where local files hold less than the configuration asks for, before room is made for it."""
    where, extra = locate(source)
    packed = getattr(config, "quantization_config", None) is not None  # such weights count otherwise
    if (extra or Path(where).is_dir()) and not packed:
        check_size(Path(where, extra.get("gguf_file", "")), count_parameters(config, source))


def count_parameters(config: PretrainedConfig, source: str) -> int:
    """Of a model without storage."""

    def count() -> int:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return sum(p.numel() for p in model.parameters())

    return guarded(count, source)


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


def check_rope_base(pair: Pair, teacher: float | None, student: float | None) -> None:
    """`teacher_rope_base` and `student_rope_base` are checks: the angles always come from the models."""
    for name, wanted, member in (("teacher", teacher, pair.teacher), ("student", student, pair.student)):
        if wanted is not None and wanted != member.geometry.rope_theta:
            found = member.geometry.rope_theta
            raise ConfigError(
                f"{wanted:g} but the model says {found}", where=f"bridge.{name}_rope_base", fix="remove the key"
            )
