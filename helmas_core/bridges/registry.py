"""All bridge methods, by name. A method is one file and one line here."""

from __future__ import annotations

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.bottleneck import BottleneckBridge
from helmas_core.bridges.c2c import C2CBridge
from helmas_core.bridges.ensemble import Ensemble
from helmas_core.bridges.h2c import H2CBridge
from helmas_core.bridges.helmas import HelmasBridge
from helmas_core.bridges.kava import KavaBridge
from helmas_core.bridges.modules import ModulesBridge
from helmas_core.bridges.prefix import PrefixBridge
from helmas_core.bridges.ridge import RidgeBridge
from helmas_core.config import BridgeSection, Section, TrainConfig
from helmas_core.errors import ConfigError, did_you_mean
from helmas_core.models.adapter import StudentCopy, StudentLora
from helmas_core.models.geometry import Geometry
from helmas_core.models.pair import Pair, check_rope_base
from helmas_core.validation import validate

METHODS: dict[str, type[Bridge]] = {
    "helmas": HelmasBridge,
    "ridge": RidgeBridge,
    "kava": KavaBridge,
    "c2c": C2CBridge,
    "h2c": H2CBridge,
    "modules": ModulesBridge,
    "bottleneck": BottleneckBridge,
    "prefix": PrefixBridge,
}


def method(name: str) -> type[Bridge]:
    if name not in METHODS:
        raise ConfigError(f'unknown method "{name}"', where="bridge.method", fix=did_you_mean(name, METHODS))
    return METHODS[name]


def method_options(section: BridgeSection) -> Section:
    """The method's own options, checked; ConfigError names an unknown key."""
    return validate(method(section.method).Options, section.options, where="bridge")


def method_mode(section: BridgeSection) -> str:
    """How the student takes it: as asked, or the method's own way."""
    modes = method(section.method).modes
    if section.mode is not None and section.mode not in modes:
        what = f'{section.method} cannot "{section.mode}"'
        raise ConfigError(what, where="bridge.mode", fix=f'set it to "{modes[0]}", or leave it out')
    return section.mode or modes[0]


def check_method(section: BridgeSection, train: TrainConfig, handoff: str = "prompt") -> None:
    """ConfigError for an unknown method, and for an option, a mode, a loss or a hand-off that it lacks."""
    method_options(section)
    check_handoff(section, handoff == "latent")
    able = method(section.method).losses
    for stage in train.stages:
        if handoff == "latent" and "attention" in stage.losses:
            what = "attention compares with the text, which ends before the latent steps do"
            raise ConfigError(what, where=f"train.stages, {stage.name}", fix="use ce or kl")
        if wrong := sorted(stage.losses.keys() - able):
            what = f"{section.method} cannot learn from {wrong[0]}"
            fix = f"use {', '.join(sorted(able))}, as the profile {section.method} does"
            raise ConfigError(what, where=f"train.stages, {stage.name}", fix=fix)


def check_handoff(section: BridgeSection, latent: bool) -> None:
    """ConfigError for a mode that the method lacks, or that cannot take latent steps."""
    fusing = method_mode(section) == "fuse"
    if latent and fusing and method(section.method).aligned:
        what = f"{section.method} fuses token by token, and the student has no tokens where the teacher thinks"
        raise ConfigError(what, where="data.handoff", fix='use bridge.mode = "replace", or the method h2c')


def make_bridge(section: BridgeSection, teacher: Geometry, student: Geometry, *more: Geometry) -> Bridge:
    """An untrained bridge for the shapes of a student and of one teacher, or of `more`, without models."""
    kind, mode, options = method(section.method), method_mode(section), method_options(section)
    if more and not kind.summable:
        what = f"{section.method} hands over more than a cache, which cannot be summed over teachers"
        raise ConfigError(what, where="pair.more_teachers", fix="leave it out, or choose another bridge.method")
    parts = [kind(geometry, student, mode, options) for geometry in (teacher, *more)]
    bridge = Ensemble(parts) if more else parts[0]
    for part in (bridge, *bridge.by_teacher):
        part.method = section.method
    return bridge


def bridge_for(section: BridgeSection, pair: Pair) -> Bridge:
    """An untrained bridge for the shapes of a loaded pair."""
    first, *more = (teacher.geometry for teacher in pair.teachers)
    return make_bridge(section, first, pair.student.geometry, *more)


def build_bridge(section: BridgeSection, pair: Pair) -> Bridge:
    """An untrained bridge for a loaded pair; ConfigError where it cannot take what the pair's teacher hands over."""
    options = method_options(section)
    check_handoff(section, bool(pair.teacher.latent_steps))
    check_rope_base(pair, getattr(options, "teacher_rope_base", None), getattr(options, "student_rope_base", None))
    bridge = bridge_for(section, pair).attach(pair)
    keeper = bridge.by_teacher[0]
    if section.lora_rank is not None:
        keeper.student_lora = StudentLora(pair.student.model, section.lora_rank)
    elif section.student == "full":
        keeper.student_copy = StudentCopy(pair.student.model).to(pair.device)
    return bridge
