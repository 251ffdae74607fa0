"""What a run is: frozen data, a class for each table of a profile. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

LORA_RANK = 8
ARMS = ("student", "teacher", "text", "bridge", "deranged", "own")
CONTROLS = ("zero", "filler", "k_only", "v_only", "shuffle_k", "moment_matched", "disabled")  # run when asked for
Loss = Literal["attention", "cache_mse", "ce", "kl", "log_norm", "mercator"]
LARGEST = 2**53  # an integer that any reader of JSON keeps
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Size = Annotated[int, Field(ge=1, le=2**20)]  # of one dimension of a model
Layers = Annotated[int, Field(ge=1, le=1024)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GeometryConfig(Section):
    """A model's shape as a profile ships it, so that `doctor` answers without the model."""

    model_type: str = Field(description="the family, as in a model's config.json")
    layers: Layers = Field(description="decoder layers")
    attention_heads: Size = Field(description="query heads of a layer")
    kv_heads: Size = Field(description="key and value heads of a layer")
    head_dim: Size = Field(description="channels of a head")
    hidden_size: Size = Field(description="width of the states between layers")
    vocab_size: Positive = Field(description="words of the output")
    rope_theta: float | None = Field(default=None, description="base of the rotary angles")
    parameters: Positive = Field(description="how many the model has")


class PairGeometry(Section):
    teacher: GeometryConfig
    student: GeometryConfig


class PairConfig(Section):
    """Teacher and student: a hub id, a local folder, a `.gguf` file, or `lab:teacher` / `lab:student`."""

    teacher: str = Field(
        default="Qwen/Qwen3-8B",
        description="what reads and thinks: a hub id, a local folder, a .gguf file, or lab:teacher",
    )
    more_teachers: tuple[str, ...] = Field(
        default=(), description="further teachers, which read the same sources; each has a bridge of its own"
    )
    student: str = Field(default="Qwen/Qwen3-1.7B", description="what answers: likewise, or lab:student")
    teacher_revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    student_revision: str | None = Field(default=None, description="likewise")
    min_alignment: Fraction = Field(
        default=0.5, description="of the student's tokens, how many must be one token of an unlike teacher tokenizer"
    )
    teacher_bits: Literal[4] | None = Field(default=None, description="load the teachers' weights in so many bits")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="of both models; auto: bf16 or fp16 on a GPU, fp32 on a CPU"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        default="auto", description="attention backend; auto: flash attention where it can be used, else sdpa"
    )
    geometry: PairGeometry | None = Field(
        default=None, description="shapes that ship with a profile, so that doctor answers without the models"
    )


class BridgeSection(BaseModel):
    """The method, how the student takes its output, and the method's own options (checked by the method)."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    method: str = Field(default="helmas", description="what translates: see methods.md")
    mode: Literal["replace", "fuse"] | None = Field(default=None, description="unset: the method's first")
    student: Literal["frozen", "lora", "full"] | None = Field(
        default=None, description="what of the student is trained with the bridge; unset: a LoRA if student_lora is set"
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

    name: str = Field(description="what logs call it")
    steps: Positive = Field(description="updates in it")
    losses: dict[Loss, Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="weights of the losses that it learns from"
    )
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="in place of train.learning_rate"
    )
    batch: Positive | None = Field(default=None, description="in place of train.batch")


class TrainConfig(Section):
    stages: tuple[StageConfig, ...] = Field(
        default=(
            StageConfig(name="warm", steps=500, losses={"cache_mse": 1.0}),
            StageConfig(name="functional", steps=1500, losses={"attention": 1.0, "ce": 1.0}),
        ),
        description="stretches of training, one after another, each with its own losses",
    )
    steps: Positive | None = Field(default=None, description="total steps; stages shrink or grow in proportion")
    batch: Positive = Field(default=8, description="items of a step")
    accumulate: Positive = Field(default=1, description="batches of which the gradients make one update")
    micro_batch: Positive | None = Field(
        default=None, description="at most so many items at once; larger batches go through the models in parts"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="the highest, after warming up")
    student_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of a student that is trained along, in proportion; unset: as the bridge"
    )
    warmup: Fraction = Field(default=0.05, description="share of a stage's steps in which the rate rises")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="of AdamW")
    clip: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="longest gradient; longer ones are shortened to it"
    )
    seed: Annotated[int, Field(ge=0, lt=2**40)] = Field(default=0, description="of everything random")
    allow_test_split: bool = Field(
        default=False, description="train on a split called test, or on items of the one that is evaluated"
    )
    allow_overlap: bool = Field(default=False, description="train although validation items are among what is learnt")
    shuffled: bool = Field(
        default=False, description="a control: learn each item's answer with another item's teacher cache"
    )
    calibration_items: Positive = Field(
        default=256, description="items that statistics and the closed-form start are fitted on"
    )
    continuation: Fraction = Field(
        default=0.0,
        description="share of functional items, of those not recited, that continue the source text",
    )
    continuation_tokens: Annotated[int, Field(ge=2)] = Field(
        default=64, description="how far a continuation or a recitation goes"
    )
    recitation: Fraction = Field(
        default=0.0, description="share of functional items in which a stretch of the source is said again"
    )
    eval_every: Positive = Field(default=1000, description="steps between validations")
    eval_samples: Annotated[int, Field(ge=0)] = Field(
        default=50, description="items of each data set that a validation asks; 0: none"
    )
    checkpoint_every: Positive = Field(default=500, description="steps between checkpoints")
    keep_checkpoints: Positive = Field(default=2, description="the newest ones; the best bridge is kept beside them")
    max_skipped: Annotated[int, Field(ge=0)] = Field(
        default=10, description="steps in a row that may be skipped, because loss or gradient is not finite"
    )
    log_every: Positive = Field(default=10, description="steps between lines of metrics.jsonl")
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = Field(
        default=None, description="follow the run in another program too; each is an extra of this package"
    )
    compile: bool = Field(default=False, description="let torch compile the bridge")
    amp: Literal["off", "bf16", "fp16"] = Field(
        default="off", description="autocast of training; the bridge's weights stay fp32"
    )
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
    split: str = Field(default="train", description="what training draws from")
    limit: Positive | None = Field(default=None, description="at most so many items of each source")
    data_dir: Path | None = Field(
        default=None, description="read DIR/DATASET/SPLIT.jsonl before the hub; else HELMAS_DATA"
    )
    handoff: Literal["prompt", "reasoning", "latent"] = Field(
        default="reasoning",
        description="what the cache holds beside the prompt: nothing, written reasoning, or thoughts without words",
    )
    latent_steps: Positive = Field(default=8, description="thoughts without words that a latent hand-off adds")
    reasoning: Literal["gold", "generate"] = Field(
        default="gold", description="whose reasoning is handed over: the data set's, or what the teacher writes"
    )
    reasoning_tokens: Positive = Field(default=320, description="how much the teacher may write")
    cut_last_step: bool = Field(
        default=False, description="take the step that states the result off the reasoning, and ask the teacher for it"
    )
    max_source_tokens: Positive = Field(
        default=2048, description="longer sources are left out of training and refused in evaluation"
    )
    chat_template: bool = Field(
        default=True, description="write prompts in the models' own chat format, where they have one"
    )
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
    ] = Field(default=ARMS, description="which arms run")  # fmt: skip
    split: str = Field(default="test", description="what is evaluated")
    limit: Positive | None = Field(default=200, description="at most so many items of each data set")
    batch: Positive = Field(default=8, description="items at once")
    max_new_tokens: Positive = Field(default=32, description="how long an answer may be")
    reuse: bool = Field(
        default=False, description="read each source once for all arms, or find it in train.store; times are left out"
    )
    baseline_tokens: Positive = Field(
        default=400,
        description="how much a model alone may write where a task asks for reasoning; also an answer in chat",
    )
    minimum_n: Positive = Field(default=50, description="fewer items than this get no verdict")
    allow_overlap: bool = Field(default=False, description="evaluate although the bridge has learnt some of the items")
    allow_inexact: bool = Field(default=False, description="warn, not fail, where own and text differ by a token")


class HardwareConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where both models and the bridge compute"
    )
    min_gpu_gib: Annotated[float, Field(ge=0)] = Field(default=0.0, description="0: no GPU needed")
    threads: Positive | None = Field(default=None, description="CPU threads; else torch's own choice")
    teacher_device: str | None = Field(
        default=None,
        description='a device of its own for all teachers, as "cuda:1"; "auto": spread over all there are',
    )
    teacher_memory: dict[str, str] | None = Field(
        default=None, description='what a spread teacher may take of each: {0 = "20GiB", cpu = "60GiB"}'
    )


class Config(Section):
    pair: PairConfig = PairConfig()
    bridge: BridgeSection = BridgeSection()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    eval: EvalConfig = EvalConfig()
    hardware: HardwareConfig = HardwareConfig()
