"""Intervals and paired tests: Wilson for a share, bootstrap for a paired difference, exact McNemar for its p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of right/n."""
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return round(float(interval.low), 4), round(float(interval.high), 4)


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], seed: int = 0) -> dict[str, Any]:
    """Difference of two arms' accuracy on the same items: delta, 95 % paired bootstrap interval, McNemar's exact p."""
    difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
    n, won, lost = len(difference), int((difference > 0).sum()), int((difference < 0).sum())
    # a resample of the items is a draw of how many of them are won, lost and tied
    draws = np.random.default_rng(seed).multinomial(n, np.array([won, lost, n - won - lost]) / n, RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    p = binomtest(won, won + lost).pvalue if won + lost else 1.0
    return {
        "delta": round(float(difference.mean()), 4),
        "ci": [round(float(low), 4), round(float(high), 4)],
        "p": float(f"{p:.4g}"),
    }


def pooled_accuracy(right: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """`right` [S, n] of S seeds on the same n items: mean accuracy, 95 % interval over seeds and items, each seed's own
    accuracy and their standard deviation."""
    values = np.asarray(right, dtype=float)
    each = values.mean(1)
    spread = float(each.std(ddof=1)) if len(each) > 1 else None
    return {
        "accuracy": round(float(values.mean()), 4),
        "ci": _crossed(values, seed),
        "seeds": [round(float(a), 4) for a in each],
        "sd": None if spread is None else round(spread, 4),
    }


def pooled_difference(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Two arms' [S, n] answers: the mean paired difference, its 95 % interval over seeds and items, and the p of a
    sign-flip test over the items' means, which for one seed is McNemar's up to the number of draws."""
    values = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    means = values.mean(0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (RESAMPLES, len(means)))
    beyond = int((np.abs(signs @ means) >= abs(means.sum()) - 1e-9).sum())
    p = float(f"{(beyond + 1) / (RESAMPLES + 1):.4g}")
    return {"delta": round(float(values.mean()), 4), "ci": _crossed(values, seed), "p": p}


def _crossed(values: np.ndarray, seed: int) -> list[float]:
    """95 % interval of the mean of `values` [S, n] under draws of as many seeds and as many items, with replacement.

    The pigeonhole bootstrap (Owen 2007): an item that is hard is hard for every seed, so S seeds are not S times as
    many items, and seeds that differ widen the interval.
    """
    rng, (seeds, items) = np.random.default_rng(seed), values.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    by_item = rng.multinomial(items, np.full(items, 1 / items), RESAMPLES) / items
    low, high = np.quantile(((by_seed @ values) * by_item).sum(1), [0.025, 0.975])
    return [round(float(low), 4), round(float(high), 4)]
