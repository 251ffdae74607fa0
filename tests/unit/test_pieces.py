"""Which layers are computed together: neighbours of one shape and kind, as many as are small, and all of them once."""

from __future__ import annotations

import pytest
import torch

from helmas_core.models.cache import AT_ONCE, pieces

pytestmark = pytest.mark.unit
LAYERS = [torch.full((1, 2, 3, 4), float(index)) for index in range(5)]  # of 24 values
FEWER = [layer[:, :1] if index == 1 else layer for index, layer in enumerate(LAYERS)]  # heads in layer 1


@pytest.mark.parametrize(
    ("layers", "kinds", "most", "expected"),
    [
        (LAYERS, "", 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (LAYERS, "", 2 * 24, [(0, 2), (2, 4), (4, 5)]),
        (LAYERS, "", 1000, [(0, 5)]),
        (LAYERS, "aabba", 1000, [(0, 2), (2, 4), (4, 5)]),
        (FEWER, "", 1000, [(0, 1), (1, 2), (2, 5)]),
        ([], "", 1000, []),
    ],
    ids=["one by one", "two at a time", "all at once", "kinds", "shapes", "none"],
)
def test_neighbours_of_one_shape_and_kind_come_together(
    layers: list[torch.Tensor],
    kinds: str,
    most: int,
    expected: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(AT_ONCE, "cpu", most)
    found = list(pieces(layers, kinds))
    assert [(part.start, part.stop) for part, _ in found] == expected
    for part, some in found:
        assert torch.equal(some, torch.stack(layers[part]))


def test_of_one_tensor_they_are_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AT_ONCE, "cpu", 3 * 24)
    whole = torch.stack(LAYERS)
    found = list(pieces(whole))
    assert [(part.start, part.stop) for part, _ in found] == [(0, 3), (3, 5)]
    assert all(some.data_ptr() == whole[part].data_ptr() and torch.equal(some, whole[part]) for part, some in found)
