"""Teacher and student, loaded, frozen, probed and checked against each other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
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

from helmas_core.config import Config
from helmas_core.errors import ConfigError, PairError
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.geometry import Geometry, probe
from helmas_core.models.hardware import Hardware
from helmas_core.models.latent import Latent
from helmas_core.models.preflight import Problem, alignment_problems, model_problems, sample_alignment
from helmas_core.models.rope import Rope, rope_residual
from helmas_core.models.tokens import ChatTemplate, Codec, chat_template, content_hash

Result = TypeVar("Result")
LAB = "lab:"
_HALF_SPLIT = ("phi3", "gpt_neox")  # fused projections, known to rotate by halves
_MAX_RESIDUAL = 0.02  # bf16 keys differ by about .003 from their fp32 projection; a wrong angle by about 1


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

    @property
    def latent_steps(self) -> int:
        return 0 if self.latent is None else self.latent.steps

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
    """Tokenizer and template are the student's, and the teacher's too unless it has a `codec` of its own."""

    teacher: Member
    student: Member
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate | None
    tokenizer_hash: str
    hardware: Hardware
    codec: Codec | None = None

    @property
    def device(self) -> torch.device:
        return self.hardware.device

    @property
    def pad(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(i for i in known if isinstance(i, int))

    @property
    def as_teacher(self) -> Pair:
        """The pair with the teacher's tokenizer and template: for what the teacher reads and writes."""
        if self.codec is None:
            return self
        own = self.codec
        return replace(self, tokenizer=own.tokenizer, template=own.template, tokenizer_hash=own.hash, codec=None)

    def describe(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher.describe(),
            "student": self.student.describe(),
            "tokenizer": self.tokenizer_hash,
            **({} if self.codec is None else {"teacher_tokenizer": self.codec.hash}),
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


def _guarded(call: Callable[[], Result], source: str) -> Result:
    try:
        return call()
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = "use a model that transformers knows"
        if isinstance(error, OSError):
            fix = "give a local folder, or download the model first where there is a network"
        raise PairError(f"cannot load: {first}", where=source, fix=fix) from error


def read_config(source: str, revision: str | None = None) -> PretrainedConfig:
    where, extra = locate(source)
    return _guarded(
        lambda: AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False, **extra), source
    )


def read_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    where, extra = locate(source)
    load = AutoTokenizer.from_pretrained
    return _guarded(lambda: load(where, revision=revision, trust_remote_code=False, **extra), source)


def find_problems(config: Config) -> list[Problem]:
    """All problems of the pair that show without weights; what cannot be read is one of them."""
    pair, tokens = config.pair, config.data.max_source_tokens
    found: list[Problem] = []
    tokenizers: list[PreTrainedTokenizerBase] = []
    for where, source, revision in (
        ("teacher", pair.teacher, pair.teacher_revision),
        ("student", pair.student, pair.student_revision),
    ):
        try:
            found += model_problems(read_config(source, revision), where, tokens)
            tokenizer = read_tokenizer(source, revision)
            content_hash(tokenizer)
            tokenizers.append(tokenizer)
        except PairError as error:
            found.append(Problem(f"{error.where}: {error.what}", where, error.fix))
    if len(tokenizers) == 2:
        found += alignment_problems(sample_alignment(*tokenizers), pair.min_alignment)
    return found


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
    teacher = _load(pair.teacher, pair.teacher_revision, hardware, notify, pair.teacher_bits)
    same = (pair.teacher, pair.teacher_revision, pair.teacher_bits) == (pair.student, pair.student_revision, None)
    student = teacher if same else _load(pair.student, pair.student_revision, hardware, notify)
    if config.data.handoff == "latent":
        teacher = replace(teacher, latent=Latent(teacher.model, config.data.latent_steps))
    own = _codec(pair.student, pair.student_revision, config.data.chat_template)
    theirs = _codec(pair.teacher, pair.teacher_revision, config.data.chat_template)
    return Pair(teacher, student, own.tokenizer, own.template, own.hash, hardware, unlike(theirs, own))


def _codec(source: str, revision: str | None, templated: bool) -> Codec:
    tokenizer = read_tokenizer(source, revision)
    return Codec(tokenizer, chat_template(tokenizer, templated), content_hash(tokenizer))


def unlike(teacher: Codec, student: Codec) -> Codec | None:
    """The teacher's, unless the student's tokenizer is the same: then both read the student's ids and template."""
    return None if teacher.hash == student.hash else teacher


def _load(
    source: str, revision: str | None, hardware: Hardware, notify: Callable[[str], None], bits: int | None = None
) -> Member:
    notify(f"loading {source}" + (f" in {bits} bits" if bits else ""))
    where, extra = locate(source)
    extra = {**extra, **(_quantised(hardware) if bits else {})}
    load = AutoModelForCausalLM.from_pretrained
    model: PreTrainedModel = _guarded(
        lambda: load(
            where,
            revision=revision,
            dtype=hardware.dtype,
            attn_implementation=hardware.attention,
            trust_remote_code=False,
            **extra,
        ),
        source,
    )
    if not bits:  # quantised weights were put in their place while they were loaded
        model.to(hardware.device)  # type: ignore[arg-type]
    return freeze(source, model)


def _quantised(hardware: Hardware) -> dict[str, Any]:
    """What makes transformers load weights in 4 bits, with products in the pair's dtype."""
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=hardware.dtype)
    return {"quantization_config": settings, "device_map": {"": hardware.device}}


def freeze(source: str, model: PreTrainedModel) -> Member:
    """A loaded model as a frozen, probed member; refuses one whose RoPE we would undo wrongly."""
    model.eval().requires_grad_(False)
    rope = Rope(model)
    ids = torch.arange(2, 18, device=model.device)[None] % model.config.get_text_config().vocab_size
    residual = rope_residual(model, rope, ids)
    if math.isnan(residual) and model.config.model_type not in _HALF_SPLIT:
        raise PairError("its way of rotating keys cannot be checked", where=source, fix="use another model")
    if residual > _MAX_RESIDUAL:
        raise PairError(f"its RoPE cannot be undone (residual {residual:.2g})", where=source, fix="use another model")
    revision = getattr(model.config, "_commit_hash", None)
    return Member(source, model, rope, probe(model), revision, fingerprint(model), residual)


def fingerprint(model: PreTrainedModel) -> str:
    """A short hash of all weights, so that a fine-tuned sibling is not taken for the model itself: of every tensor the
    sum of its bits in bf16, whatever it is loaded in, and some of its values."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        bits = parameter.detach().flatten().to(torch.bfloat16).view(torch.int16)
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
