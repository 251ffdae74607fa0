"""A student that is trained along with the bridge: a LoRA on its attention output projections, or a copy of its
weights, in place only while it goes on from a bridged cache.

The LoRA is after Hu et al. 2021 (https://arxiv.org/abs/2106.09685), with the layers of peft, an optional extra. peft's
own switches change `requires_grad`, and a backward pass after switching off would drop the gradients in silence; so its
layers are put into the model and taken out again, and outside `active` the student is module for module what it was.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from helmas_core.errors import ConfigError
from helmas_core.models.layers import attention_modules

WHERE = "bridge.student_lora"
_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")


class StudentLora(nn.Module):
    """Wx + 2·B(Ax) for every layer's output projection W: A [rank, in] and B [out, rank], fp32, B zero at the start.

    Owns A and B only; the model and its projections are borrowed.
    """

    def __init__(self, model: PreTrainedModel, rank: int) -> None:
        super().__init__()
        self._name, self._holders = output_projections(model)
        self._layers = _lora_layers([getattr(holder, self._name) for holder in self._holders], rank)
        self.down = nn.ParameterList(layer.lora_A["default"].float().weight for layer in self._layers)
        self.up = nn.ParameterList(layer.lora_B["default"].float().weight for layer in self._layers)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model runs with A and B inside; its own projections come back whatever happens."""
        before = [getattr(holder, self._name) for holder in self._holders]
        self._put(self._layers)
        try:
            yield
        finally:
            self._put(before)

    def _put(self, projections: list[Any]) -> None:
        for holder, projection in zip(self._holders, projections, strict=True):
            setattr(holder, self._name, projection)


class StudentCopy(nn.Module):
    """All weights of the student once more, fp32, to be trained; in the model's place only while `active`.

    Owns its weights, shared ones once; the model is borrowed and keeps its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        named = ((module, key, p) for module in model.modules() for key, p in module.named_parameters(recurse=False))
        self._places = list(named)
        different = {id(p): p for _, _, p in self._places}
        self._index = {own: index for index, own in enumerate(different)}
        self.weights = nn.ParameterList(nn.Parameter(p.detach().float().clone()) for p in different.values())

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model runs with these weights inside; its own come back whatever happens."""
        for module, key, own in self._places:
            setattr(module, key, self.weights[self._index[id(own)]])
        try:
            yield
        finally:
            for module, key, own in self._places:
                setattr(module, key, own)


def output_projections(model: PreTrainedModel) -> tuple[str, list[nn.Module]]:
    """What the family calls its attention output projection, and each layer's module that holds one."""
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    for name in _OUTPUTS:
        holders = [
            module for module in attention_modules(model) if isinstance(getattr(module, name, None), nn.Linear | Conv1D)
        ]
        if len(holders) == layers:
            return name, holders
    what = f"{model.config.model_type} has no attention output projection that is known: {', '.join(_OUTPUTS)}"
    raise ConfigError(what, where=WHERE, fix="leave the key out for this student")


def _lora_layers(projections: list[nn.Module], rank: int) -> list[Any]:
    """peft's layers around `projections`, which stay as they are."""
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=r"\d+",  # the list's own names: 0, 1, …
        fan_in_fan_out=isinstance(projections[0], Conv1D),
    )
    return list(peft.inject_adapter_in_model(config, nn.ModuleList(projections)))


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        fix = 'install the extra: pip install "helmas[lora]"'
        raise ConfigError(f"peft is needed ({error})", where=WHERE, fix=fix) from error
