"""All bridge methods, by name. A method is one file and one line here."""

from __future__ import annotations

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.helmas import HelmasBridge
from helmas_core.bridges.prefix import PrefixBridge
from helmas_core.config import BridgeSection, Section, validate
from helmas_core.errors import ConfigError, did_you_mean
from helmas_core.models.adapter import StudentLora
from helmas_core.models.geometry import Geometry
from helmas_core.models.pair import Pair, check_rope_base

METHODS: dict[str, type[Bridge]] = {
    "helmas": HelmasBridge,
    "prefix": PrefixBridge,
}


def method(name: str) -> type[Bridge]:
    if name not in METHODS:
        raise ConfigError(f'unknown method "{name}"', where="bridge.method", fix=did_you_mean(name, METHODS))
    return METHODS[name]


def method_options(section: BridgeSection) -> Section:
    """The method's own options, checked; ConfigError names an unknown key."""
    return validate(method(section.method).Options, section.options, where="bridge")


def make_bridge(section: BridgeSection, teacher: Geometry, student: Geometry) -> Bridge:
    """An untrained bridge for two shapes, without models."""
    return method(section.method)(teacher, student, section.mode, method_options(section))


def build_bridge(section: BridgeSection, pair: Pair) -> Bridge:
    """An untrained bridge for a loaded pair."""
    options = method_options(section)
    check_rope_base(pair, getattr(options, "teacher_rope_base", None), getattr(options, "student_rope_base", None))
    bridge = make_bridge(section, pair.teacher.geometry, pair.student.geometry).attach(pair)
    if section.student_lora is not None:
        bridge.student_lora = StudentLora(pair.student.model, section.student_lora)
    return bridge
