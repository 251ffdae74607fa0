"""See and change what a model's layers put out, from outside and for a while: hooks that undo themselves.

Shapes: B batch, N tokens of one forward pass, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from helmas_core.errors import PairError

# (hidden states [B, N, E], positions [B, N]) -> hidden states
Change = Callable[[Tensor, Tensor], Tensor]


def decoder(model: PreTrainedModel) -> PreTrainedModel:
    """What reads text in `model`: the whole of it below its head, or one tower among several."""
    return cast(PreTrainedModel, model.get_decoder())


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's layers in order, whatever its family calls them."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise PairError(f"{model.config.model_type} has no list of {count} layers", fix="use another model")


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """What attends in each layer, in order: the modules that transformers marks as causal or not."""
    return [module for module in decoder(model).modules() if hasattr(module, "is_causal")]


def layer_devices(model: PreTrainedModel) -> list[torch.device]:
    """Where each layer computes, also if its weights lie elsewhere until then."""
    return [_device(layer) for layer in decoder_layers(model)]


def _device(layer: nn.Module) -> torch.device:
    """accelerate's hooks say so where it has spread a model."""
    hook = getattr(layer, "_hf_hook", None)
    known = [getattr(one, "execution_device", None) for one in getattr(hook, "hooks", (hook,))]
    return next((torch.device(one) for one in known if one is not None), next(layer.parameters()).device)


@contextmanager
def layer_states(model: PreTrainedModel, wanted: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Inside, a forward pass leaves its hidden states of `wanted` in the dictionary: 0 is what the first layer gets, i
    what layer i − 1 puts out. (transformers' own switch for it would leave its hooks on the model.)"""
    layers, seen = decoder_layers(model), dict[int, Tensor]()

    def given(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[0] = args[0] if args else kwargs["hidden_states"]

    def hook(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def put(_module: nn.Module, _args: Any, out: Any) -> None:
            seen[index] = out[0] if isinstance(out, tuple) else out

        return put

    with ExitStack() as stack:
        if 0 in wanted:
            stack.callback(layers[0].register_forward_pre_hook(given, with_kwargs=True).remove)
        for index in (index for index in wanted if index > 0):
            stack.callback(layers[index - 1].register_forward_hook(hook(index)).remove)
        yield seen


@contextmanager
def layer_inputs(model: PreTrainedModel, states: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, layer i is given `states[i]` [B, N, E] in place of what the layers before it made."""

    def hook(state: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
        def give(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

        return give

    layers = decoder_layers(model)
    with ExitStack() as stack:
        for index, state in states.items():
            stack.callback(layers[index].register_forward_pre_hook(hook(state), with_kwargs=True).remove)
        yield


@contextmanager
def after_layers(model: PreTrainedModel, changes: Mapping[int, Change]) -> Iterator[None]:
    """Inside, what layer i puts out goes through `changes[i]`, with the positions that the pass was given.

    Every pass inside must name its positions, as all of ours do.
    """
    layers, seen = decoder_layers(model), dict[str, Tensor]()

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        seen["positions"] = kwargs["position_ids"]

    def hook(change: Change) -> Callable[[nn.Module, Any, Any], Any]:
        def apply(_module: nn.Module, _args: Any, out: Any) -> Any:
            states, *rest = out if isinstance(out, tuple) else (out,)
            changed = change(states, seen["positions"]).contiguous()  # mixtures of experts view them flat
            return (changed, *rest) if isinstance(out, tuple) else changed

        return apply

    with ExitStack() as stack:
        stack.callback(model.base_model.register_forward_pre_hook(note, with_kwargs=True).remove)
        for index, change in changes.items():
            stack.callback(layers[index].register_forward_hook(hook(change)).remove)
        yield


@contextmanager
def output_head(model: PreTrainedModel, head: nn.Module) -> Iterator[None]:
    """Inside, `head` takes the place of the model's output embeddings."""
    before = model.get_output_embeddings()
    model.set_output_embeddings(head)
    try:
        yield
    finally:
        model.set_output_embeddings(before)
