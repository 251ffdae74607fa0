"""The closed forms against a second route: explicit least squares, and a bottleneck found in whitened space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helmas_core.bridges.fit import Moments, Ridge
from helmas_core.errors import DataError

pytestmark = pytest.mark.numerics
L, N, I, O = 3, 60, 12, 7  # noqa: E741 - layers, rows, in, out, as in the code
LAMBDA = 0.05


def _rows(noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """X with channels of very different size, and Y linear in it with `noise`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(L, N, I, generator=generator) * torch.logspace(-1, 1, I)
    y = x @ torch.randn(L, I, O, generator=generator)
    return x, y + noise * torch.randn(L, N, O, generator=generator)


ALL, TENTH = torch.ones(N, dtype=torch.bool), torch.arange(N) % 10 == 0


def _objective(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """‖XW − Y‖² + λN‖W‖² per layer."""
    return (x @ w - y).square().sum((1, 2)) + LAMBDA * N * w.square().sum((1, 2))


def _by_whitening(x: Tensor, y: Tensor, rank: int) -> Tensor:
    """The best map of a rank in fp64: append √(λN)·1 to X and 0 to Y, solve, cut the SVD of the fitted values."""
    stretched = (LAMBDA * N) ** 0.5 * torch.eye(I).double().expand(L, -1, -1)
    x, y = torch.cat((x.double(), stretched), 1), torch.cat((y.double(), torch.zeros(L, I, O).double()), 1)
    left, sizes, right = torch.linalg.svd(x @ torch.linalg.lstsq(x, y).solution, full_matrices=False)
    cut = left[:, :, :rank] @ torch.diag_embed(sizes[:, :rank]) @ right[:, :rank]
    return torch.linalg.lstsq(x, cut).solution.float()


@pytest.mark.parametrize("rank", [1, 3, 6, 7])
def test_a_reduced_rank_is_the_best_of_its_rank(rank: int) -> None:
    x, y = _rows()
    found = Moments.of(x, y).solve(LAMBDA, rank)
    torch.testing.assert_close(found, _by_whitening(x, y, rank), rtol=1e-3, atol=1e-3)
    assert torch.linalg.matrix_rank(found, rtol=1e-4).tolist() == [rank] * L


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_cutting_the_weights_own_svd_would_be_worse(rank: int) -> None:
    x, y = _rows()
    moments = Moments.of(x, y)
    left, sizes, right = torch.linalg.svd(moments.solve(LAMBDA), full_matrices=False)
    plain = left[:, :, :rank] @ torch.diag_embed(sizes[:, :rank]) @ right[:, :rank]
    assert (_objective(x, y, moments.solve(LAMBDA, rank)) < 0.99 * _objective(x, y, plain)).all()


def test_a_full_rank_is_the_ridge_itself() -> None:
    x, y = _rows()
    moments = Moments.of(x, y)
    torch.testing.assert_close(moments.solve(LAMBDA, O), moments.solve(LAMBDA), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments.solve(LAMBDA), _by_whitening(x, y, O), rtol=1e-3, atol=1e-3)


def test_streamed_rows_are_all_rows_and_padding_is_none() -> None:
    x, y = _rows()
    real = torch.arange(N) % 5 > 0
    parts = Ridge([LAMBDA])
    for rows in (slice(0, 25), slice(25, N)):
        parts.add(x[:, rows], y[:, rows], real[rows], ALL[rows])  # with one strength nothing is held out
    whole = Moments.of(x[:, real], y[:, real]).solve(LAMBDA)
    torch.testing.assert_close(parts.solve(), whole, rtol=1e-4, atol=1e-4)
    residual = (x[:, real] @ whole - y[:, real]).square().sum((1, 2)) / y[:, real].square().sum((1, 2))
    assert parts.unexplained() == pytest.approx(residual.mean().item(), rel=1e-2)


@pytest.mark.parametrize(("noise", "rank"), [(0.0, None), (0.5, None), (20.0, None), (0.5, 3)])
def test_the_strength_with_the_least_held_out_error_is_chosen(noise: float, rank: int | None) -> None:
    strengths = (1e-4, 1e-2, 1.0, 100.0)
    x, y = _rows(noise)
    ridge, errors = Ridge(strengths, rank), []
    ridge.add(x, y, ALL, TENTH)
    solution = ridge.solve()
    for strength in strengths:
        weight = Moments.of(x[:, ~TENTH], y[:, ~TENTH]).solve(strength, rank)
        left = (x[:, TENTH] @ weight - y[:, TENTH]).square().sum((1, 2)) / y[:, TENTH].square().sum((1, 2))
        errors.append(left.mean().item())
    assert ridge.strength == strengths[errors.index(min(errors))]
    torch.testing.assert_close(solution, Moments.of(x, y).solve(ridge.strength, rank), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("noise", "best"), [(0.0, 1e-4), (300.0, 100.0)])
def test_clean_rows_want_little_ridge_and_noise_wants_much(noise: float, best: float) -> None:
    ridge = Ridge((1e-4, 1e-2, 1.0, 100.0))
    ridge.add(*_rows(noise), ALL, TENTH)
    ridge.solve()
    assert ridge.strength == best


def test_a_strength_too_small_for_fp32_is_not_chosen() -> None:
    x, y = _rows()
    ridge = Ridge((1e-12, 1e-2))
    ridge.add(torch.cat((x, x), 2), y, ALL, TENTH)
    assert torch.isfinite(ridge.solve()).all()
    assert ridge.strength == 1e-2


def test_nothing_to_choose_by_is_an_error() -> None:
    ridge = Ridge((0.1, 1.0))
    ridge.add(*_rows(), ALL, ALL)
    with pytest.raises(DataError, match=r"bridge\.ridge"):
        ridge.solve()
