"""Fixtures for all tests: no network, one thread per process, the lab pair and tiny random pairs."""

from __future__ import annotations

import os

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("HELMAS_DATA", None)
os.environ.pop("HELMAS_DEBUG", None)

from typing import TYPE_CHECKING  # noqa: E402

import pytest  # noqa: E402

if TYPE_CHECKING:
    from helmas_core.models.pair import Pair


@pytest.fixture(scope="session")
def lab_pair() -> Pair:
    """The embedded pair, fp32 on the CPU."""
    import torch

    from helmas_core.layering import load_config
    from helmas_core.models.hardware import resolve_hardware
    from helmas_core.models.loading import load_pair

    torch.set_num_threads(1)
    config = load_config(["lab"])
    return load_pair(config, resolve_hardware(config))


@pytest.fixture(scope="session")
def unequal() -> Pair:
    """A random pair that differs in family, layers, KV heads, head dim and theta."""
    import torch

    from tests.tiny import unequal_pair

    torch.set_num_threads(1)
    return unequal_pair()
