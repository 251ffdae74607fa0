"""Several processes that work as one: who this one is, which part of the work is its own, what all have together.

A launcher (accelerate's, torchrun) starts them and tells each its LOCAL_RANK, RANK and WORLD_SIZE. A process that was
started alone is a group of one, for which all of this is free. No torch before it is needed.

What is exchanged here must be asked for by every process in the same order: one that asks for more than the others do
waits for them for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from helmas_core.errors import HelmasError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_PATIENCE = timedelta(days=1)  # one may fit or validate for long; that another is gone is seen by other means
_FAILED = "helmas/failed"


class LostError(HelmasError):
    """Another process ended in the middle of the common work; its launcher, or it itself, says why."""

    exit_code = 75


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """This one's place among them, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def local() -> tuple[int, int]:
    """(this one's place, how many) among the processes of this machine."""
    if count() == 1:
        return 0, 1
    return int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", str(count())))


def first() -> bool:
    """Whether this is the process that shows, writes and decides."""
    return rank() == 0


def mine(parts: Sequence[T]) -> Sequence[T]:
    """Those of `parts` that are this process's share: every one has one owner, and shares differ by one at most."""
    return parts[rank() :: count()]


def join() -> None:
    """Meet the other processes, on GPUs by NCCL and on the host by gloo."""
    if count() == 1:
        return
    import torch
    from accelerate import PartialState

    gpu = torch.cuda.is_available()
    PartialState(cpu=not gpu, backend="cuda:nccl,cpu:gloo" if gpu else "gloo", timeout=_PATIENCE)


def leave() -> None:
    """Part from the others, who have come to their end too."""
    if count() == 1:
        return
    import torch

    torch.distributed.destroy_process_group()


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, without a gradient."""
    if count() == 1:
        return tensor
    summed = tensor.detach().clone()
    add_up([summed])
    return summed


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each of `tensors` by its sum over all processes."""
    if count() == 1:
        return
    import torch

    with _others():
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def sums(figures: Mapping[str, float]) -> dict[str, float]:
    """Every process's `figures` of the same names, added up."""
    if count() == 1:
        return dict(figures)
    import torch

    summed = total(torch.tensor(list(figures.values()), dtype=torch.float64))
    return dict(zip(figures, summed.tolist(), strict=True))


def agree(wish: bool) -> bool:
    """Whether any process wishes it. No process is past this before all have come to it."""
    if count() == 1:
        return wish
    import torch

    return bool(total(torch.tensor(int(wish))))


def gather(value: T) -> list[T]:
    """Every process's `value`, in the order of their ranks."""
    if count() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * count()
    with _others():
        torch.distributed.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """The first process's `value`."""
    if count() == 1:
        return value
    import torch

    values = [value]
    with _others():
        torch.distributed.broadcast_object_list(values)
    return values[0]


def broadcast_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors`, which have the same names and shapes everywhere, with the first process's values."""
    if count() == 1:
        return
    import torch

    with _others(), torch.no_grad():
        for name in sorted(tensors):
            sent = tensors[name].detach().contiguous()
            torch.distributed.broadcast(sent, 0)
            tensors[name].copy_(sent)


def first_to_fail(code: int) -> tuple[bool, int]:
    """(whether no other process has failed before this one, the exit code of the one that has).

    So that one of them tells what happened, and all end alike.
    """
    if count() == 1:
        return True, code
    from torch.distributed.distributed_c10d import _get_default_store  # pyright: ignore[reportPrivateUsage]

    own = f"{rank()} {code}"
    try:
        found = _get_default_store().compare_set(_FAILED, "", own).decode()
    except (RuntimeError, ValueError):  # never joined, or the others' end took the store with it
        return first(), code
    return found == own, int(found.split()[1])


@contextmanager
def _others() -> Iterator[None]:
    """What goes wrong in an exchange goes wrong at the other end: everything here is of one shape everywhere."""
    try:
        yield
    except RuntimeError as error:
        raise LostError("another process ended") from error
