"""What a run is: frozen data, read from TOML profiles, `--set` and flags. No torch here.

Precedence, lowest first: defaults, the bridge's own metadata, profiles in order, `--set`, flags.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from helmas_core.errors import ConfigError, did_you_mean

DEFAULT_PROFILE = "h200"
LORA_RANK = 8
ARMS = ("student", "teacher", "text", "bridge", "deranged", "own")
CONTROLS = ("zero", "filler", "k_only", "v_only", "shuffle_k", "moment_matched", "disabled")  # run when asked for
Model = TypeVar("Model", bound=BaseModel)

Loss = Literal["attention", "cache_mse", "ce", "kl", "log_norm", "mercator"]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GeometryConfig(Section):
    """A model's shape as a profile ships it, so that `doctor` answers without the model."""

    model_type: str
    layers: Positive
    attention_heads: Positive
    kv_heads: Positive
    head_dim: Positive
    hidden_size: Positive
    vocab_size: Positive
    rope_theta: float | None = None
    parameters: Positive


class PairGeometry(Section):
    teacher: GeometryConfig
    student: GeometryConfig


class PairConfig(Section):
    """Teacher and student: a hub id, a local folder, a `.gguf` file, or `lab:teacher` / `lab:student`."""

    teacher: str = "Qwen/Qwen3-8B"
    student: str = "Qwen/Qwen3-1.7B"
    teacher_revision: str | None = None
    student_revision: str | None = None
    min_alignment: Fraction = Field(
        default=0.5, description="of the student's tokens, how many must be one token of an unlike teacher tokenizer"
    )
    teacher_bits: Literal[4] | None = Field(default=None, description="load the teacher's weights in so many bits")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    geometry: PairGeometry | None = None


class BridgeSection(BaseModel):
    """The method, how the student takes its output, and the method's own options (checked by the method)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str = "helmas"
    mode: Literal["replace", "fuse"] | None = Field(default=None, description="None: the method's first")
    student: Literal["frozen", "lora", "full"] | None = Field(
        default=None, description="what of the student is trained with the bridge; None: a LoRA if student_lora is set"
    )
    student_lora: Positive | None = Field(
        default=None, description="rank of a LoRA that the student has after a hand-off, trained with the bridge"
    )

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def lora_rank(self) -> int | None:
        """The rank of the student's LoRA; None without one."""
        return self.student_lora or (LORA_RANK if self.student == "lora" else None)

    @model_validator(mode="after")
    def _one_student(self) -> Self:
        if self.student_lora and self.student in ("frozen", "full"):
            raise ValueError(f'student = "{self.student}" has no LoRA: leave student_lora out')
        return self


class StageConfig(Section):
    """One stretch of training: its steps, its weighted losses, and what differs from `[train]`."""

    name: str
    steps: Positive
    losses: dict[Loss, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    batch: Positive | None = None


class TrainConfig(Section):
    stages: tuple[StageConfig, ...] = (
        StageConfig(name="warm", steps=500, losses={"cache_mse": 1.0}),
        StageConfig(name="functional", steps=1500, losses={"attention": 1.0, "ce": 1.0}),
    )
    steps: Positive | None = Field(default=None, description="total steps; stages shrink or grow in proportion")
    batch: Positive = 8
    accumulate: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    student_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of a student that is trained along, in proportion; None: as the bridge"
    )
    warmup: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    seed: int = 0
    allow_test_split: bool = False
    allow_overlap: bool = Field(default=False, description="train although validation items are among what is learnt")
    shuffled: bool = Field(
        default=False, description="a control: learn each item's answer with another item's teacher cache"
    )
    calibration_items: Positive = Field(
        default=256, description="items that statistics and the closed-form start are fitted on"
    )
    continuation: Fraction = Field(default=0.0, description="share of functional batches that continue the source text")
    continuation_tokens: Annotated[int, Field(ge=2)] = 64
    eval_every: Positive = 1000
    eval_samples: Annotated[int, Field(ge=0)] = 50
    checkpoint_every: Positive = 500
    log_every: Positive = 10
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = Field(
        default=None, description="follow the run in another program too; each is an extra of this package"
    )
    compile: bool = False
    amp: Literal["off", "bf16", "fp16"] = "off"
    state_gib: Annotated[float, Field(ge=0)] = Field(
        default=4.0, description="memory for teacher states kept between epochs"
    )
    init: Path | None = Field(
        default=None, description="a bridge.safetensors to go on from, in place of the closed-form start"
    )
    store: Path | None = Field(
        default=None, description="folder that keeps what the models read and wrote, for this run and later ones"
    )
    store_gib: Annotated[float, Field(ge=0)] = Field(
        default=8.0, description="disk for the states in the store; nothing is added beyond it"
    )
    store_dtype: Literal["model", "bf16", "fp8"] = Field(
        default="model", description="how states are stored: exactly, or smaller (fp8: values to within a sixteenth)"
    )

    def schedule(self) -> tuple[StageConfig, ...]:
        """The stages with their final step counts."""
        if self.steps is None:
            return self.stages
        total = sum(stage.steps for stage in self.stages)
        return tuple(s.model_copy(update={"steps": max(1, round(s.steps * self.steps / total))}) for s in self.stages)

    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.schedule())


class DataConfig(Section):
    dataset: str = Field(default="gsm8k", description="a task, several joined by commas, or jsonl:PATH")
    mix: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, description="what training draws from in place of `dataset`: a weight for each source, 0 for none"
    )
    split: str = "train"
    limit: Positive | None = None
    data_dir: Path | None = None
    handoff: Literal["prompt", "reasoning", "latent"] = "reasoning"
    latent_steps: Positive = Field(default=8, description="thoughts without words that a latent hand-off adds")
    reasoning: Literal["gold", "generate"] = "gold"
    reasoning_tokens: Positive = 320
    cut_last_step: bool = Field(default=False, description="take the step that states the result off the reasoning")
    max_source_tokens: Positive = 2048
    chat_template: bool = True
    scaffold: Literal["default", "plain"] = Field(
        default="default", description="the words around question and answer; a result should not hang on them"
    )

    def names(self) -> list[str]:
        """The data sets of `dataset`, in order: what is validated and evaluated."""
        return [name.strip() for name in self.dataset.split(",") if name.strip()]

    def shares(self) -> dict[str, float]:
        """Each source's share of the training draws under `mix`; empty without one."""
        weights = {name: weight for name, weight in (self.mix or {}).items() if weight}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def learnt(self) -> list[str]:
        """The sources that training reads: those of `mix`, else the data sets of `dataset`."""
        return list(self.shares()) or self.names()

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.mix is not None and not self.shares():
            raise ValueError("mix needs a source with a weight above 0")
        return self


class EvalConfig(Section):
    arms: tuple[
        Literal[
            "student", "teacher", "text", "bridge", "deranged", "own",
            "zero", "filler", "k_only", "v_only", "shuffle_k", "moment_matched", "disabled",
        ],
        ...,
    ] = ARMS  # fmt: skip
    split: str = "test"
    limit: Positive | None = 200
    batch: Positive = 8
    max_new_tokens: Positive = 32
    reuse: bool = Field(
        default=False, description="read each source once for all arms, or find it in train.store; times are left out"
    )
    baseline_tokens: Positive = 400
    minimum_n: Positive = Field(default=50, description="fewer items than this get no verdict")
    allow_overlap: bool = Field(default=False, description="evaluate although the bridge has learnt some of the items")
    allow_inexact: bool = Field(default=False, description="warn, not fail, where own and text differ by a token")


class HardwareConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    min_gpu_gib: Annotated[float, Field(ge=0)] = Field(default=0.0, description="0: no GPU needed")
    threads: Positive | None = None


class Config(Section):
    pair: PairConfig = PairConfig()
    bridge: BridgeSection = BridgeSection()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    eval: EvalConfig = EvalConfig()
    hardware: HardwareConfig = HardwareConfig()


def profile_folder() -> Path:
    """`profiles/`: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "profiles"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "profiles"


def profile_names() -> list[str]:
    return sorted(path.stem for path in profile_folder().glob("*.toml"))


def find_profile(name: str) -> Path:
    """The file of a profile given by name or by path."""
    if name in profile_names():
        return profile_folder() / f"{name}.toml"
    path = Path(name).expanduser()
    if path.suffix == ".toml" or os.sep in name:
        if path.is_file():
            return path
        raise ConfigError("no such profile file", where=name, fix=f"shipped profiles: {', '.join(profile_names())}")
    raise ConfigError(f'unknown profile "{name}"', fix=did_you_mean(name, profile_names()))


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"not readable as TOML: {error}", where=str(path), fix="mend the file") from error


def parse_set(assignment: str) -> dict[str, Any]:
    """`a.b=value` as a nested dict; the value is TOML, or else a plain string."""
    key, separator, text = assignment.partition("=")
    if not separator or not all(key.strip().split(".")):
        raise ConfigError(f'cannot read "{assignment}"', where="--set", fix="write --set section.key=value")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`high` over `low`, table by table; lists and values are replaced whole."""
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load_config(
    profiles: Sequence[str] = (), sets: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> Config:
    """Defaults < `base` < `profiles` < `sets`, validated. Without `base`, no profile means `h200`."""
    names = list(profiles) or ([] if base is not None else [DEFAULT_PROFILE])
    tree: dict[str, Any] = dict(base or {})
    for layer in [*(read_toml(find_profile(name)) for name in names), *map(parse_set, sets)]:
        tree = merge(_without_foreign_options(_without_foreign_shapes(tree, layer), layer), layer)
    return validate(Config, tree)


def _without_foreign_shapes(tree: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Shipped shapes belong to the models they came with: drop them when `layer` names others."""
    named, before = layer.get("pair"), tree.get("pair")
    if not (isinstance(named, dict) and isinstance(before, dict) and {"teacher", "student"} & named.keys()):
        return tree
    return {**tree, "pair": {key: value for key, value in before.items() if key != "geometry"}}


def _without_foreign_options(tree: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options and mode are its own: drop them when `layer` names another method."""
    named, before = layer.get("bridge"), tree.get("bridge")
    if not (isinstance(named, dict) and isinstance(before, dict) and "method" in named):
        return tree
    default = BridgeSection().method
    if named["method"] == before.get("method", default):
        return tree
    return {**tree, "bridge": {key: value for key, value in before.items() if key.startswith("student")}}


def validate(model: type[Model], tree: Mapping[str, Any], where: str = "") -> Model:
    """`tree` as `model`, or a ConfigError that names the first key at fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise _explain(model, error, where) from error


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    place = ".".join(filter(None, [where, *path]))
    if first["type"] == "extra_forbidden":
        return ConfigError("unknown key", where=place, fix=did_you_mean(path[-1], _keys_at(model, path[:-1])))
    got = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return ConfigError(first["msg"] + got, where=place, fix="see `helmas profiles show`")


def _keys_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        for candidate in (inner, *getattr(inner, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)
