"""Is a pair bridgeable, and what will it cost? Answered from configs, or from the shapes that a profile ships."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from helmas_core.bridges.registry import make_bridge
from helmas_core.config import Config
from helmas_core.errors import PairError
from helmas_core.models.backends import open_backend
from helmas_core.models.geometry import Geometry, from_config, from_profile
from helmas_core.models.hardware import DTYPES, GIB, gpu_gib, host_gib, missing, runnable_profiles
from helmas_core.models.loading import find_problems, sources
from helmas_core.models.preflight import Problem, sample_alignment
from helmas_core.models.sources import count_parameters, guarded, read_config, read_tokenizer
from helmas_core.sides import by_side

_FP32, _ADAM_COPIES = 4, 4  # weights, gradients and two moments


def diagnose(config: Config) -> dict[str, Any]:
    """The `doctor --json` document. Reads no weights; a profile that ships its pair's shapes needs no network."""
    transformers_logging.set_verbosity_error()
    problems, shapes, source = _shapes(config)
    if lacking := missing(config):
        fix = f"these profiles run here: {', '.join(runnable_profiles())}"
        problems.append(Problem(f"the profile needs {lacking}", "hardware", fix, "warning"))
    cost = _cost(config, shapes) if shapes else {}
    return {
        "schema": 1,
        "command": "doctor",
        "ok": not any(problem.severity == "error" for problem in problems),
        "problems": [problem.as_json() for problem in problems],
        "geometry": {side: asdict(geometry) for side, geometry in shapes.items()},
        "geometry_from": source,
        **(_alignment(config) if source == "config" else {}),
        "runs_here": lacking is None,
        **cost,
    }


def _shapes(config: Config) -> tuple[list[Problem], dict[str, Geometry], str]:
    """Problems, the models' shapes by side unless one of them cannot be used, and where the shapes are from."""
    pair, named = config.pair, sources(config.pair)
    if pair.geometry is not None and not pair.more_teachers:
        return [], by_side([from_profile(pair.geometry.teacher)], from_profile(pair.geometry.student)), "profile"
    problems = find_problems(config)
    if any(p.severity == "error" and p.where in named for p in problems):
        return problems, {}, "none"
    configs = {side: read_config(*source) for side, source in named.items()}
    student = configs["student"]
    if any("attention" in stage.losses for stage in config.train.stages) and not open_backend(student):
        what = f"the attention of {student.model_type} cannot be looked into"
        problems.append(Problem(what, "student", 'leave the loss "attention" out of train.stages', "warning"))
    return problems, {side: _counted(found, named[side][0]) for side, found in configs.items()}, "config"


def _alignment(config: Config) -> dict[str, Any]:
    """How unlike tokenizers cut a sample, that of a further teacher under its side; nothing for a shared one, or for
    one that cannot be read."""
    try:
        *teachers, student = ((side, read_tokenizer(*source)) for side, source in sources(config.pair).items())
    except PairError:
        return {}
    found = {side: sample_alignment(tokenizer, student[1]) for side, tokenizer in teachers}
    named = {"alignment" + side.removeprefix("teacher"): shares for side, shares in found.items()}
    return {name: shares for name, shares in named.items() if shares is not None}


def _counted(config: PretrainedConfig, source: str) -> Geometry:
    """The shape with its parameter count, from a model without storage."""
    return replace(guarded(partial(from_config, config), source), parameters=count_parameters(config, source))


def _cost(config: Config, shapes: Mapping[str, Geometry]) -> dict[str, Any]:
    *teachers, student = shapes.values()
    gpu = _on_gpu(config)
    element = DTYPES[config.pair.dtype.replace("auto", "bf16" if gpu else "fp32")].itemsize
    with torch.device("meta"):
        bridge = make_bridge(config.bridge, teachers[0], student, *teachers[1:])
    tokens = {side: geometry.kv_bytes_per_token(element) for side, geometry in shapes.items()}
    full = config.bridge.student == "full"
    parts = zip(teachers, bridge.by_teacher, strict=True)
    hidden = sum(len(part.hidden) * teacher.hidden_size * element for teacher, part in parts)
    batch = max((stage.batch or config.train.batch for stage in config.train.schedule()), default=config.train.batch)
    memory = {
        **{side: geometry.parameters * element / GIB for side, geometry in shapes.items()},
        "bridge_training": bridge.parameter_count() * _FP32 * _ADAM_COPIES / GIB,
        **({"student_training": student.parameters * _FP32 * _ADAM_COPIES / GIB} if full else {}),
        "caches": batch * config.data.max_source_tokens * (sum(tokens.values()) + hidden) / GIB,
    }
    computing, kept = sum(memory.values()), config.train.state_gib  # states are kept on the host, whatever computes
    needed = {"gpu": computing, "host": kept} if gpu else {"gpu": 0.0, "host": computing + kept}
    return {
        "bridge_parameters": bridge.parameter_count(),
        "kv_bytes_per_token": tokens,
        "memory_gib": {name: round(value, 3) for name, value in {**memory, "kept_states": kept}.items()},
        "needed_gib": {name: round(value, 3) for name, value in needed.items()},
        "available_gib": {"gpu": round(gpu_gib(), 1), "host": round(host_gib(), 1)},
    }


def _on_gpu(config: Config) -> bool:
    """Whether the models are to run on a GPU: there is one, or the profile asks for one."""
    return config.hardware.device != "cpu" and bool(gpu_gib() or missing(config))
