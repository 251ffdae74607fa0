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
