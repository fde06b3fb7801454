"""What is said with a probability, beside what came true."""

import json

import numpy as np
import pandas as pd
import pytest

from predictor.learning.validation.promises import promises, wins


def figures(gpus, spread, off=0.0):
    """Rows whose measurements lie around what is predicted as their intervals say, but for a bias."""
    random = np.random.default_rng(1)
    rows = []
    for number in range(400):
        for gpu in gpus:
            request = json.dumps({"model": "m", "gpu": gpu, "batch": number})
            for metric, value in (("ttft_s", 1.0), ("tpot_s", 0.01)):
                predicted = value * (1 + gpus.index(gpu) * 0.2)
                measured = predicted * np.exp(random.normal(0.25 * spread + off, spread))
                ends = {"low": predicted * np.exp(-1.2816 * spread), "high": predicted * np.exp(1.2816 * spread)}
                row = {"table": "t", "gpu": gpu, "metric": metric, "measured": measured, "predicted": predicted}
                rows.append(row | ends | {"request": request})
    return pd.DataFrame(rows)


def test_promises_are_kept_as_often_as_is_said():
    for kept in promises(figures(["a"], 0.2), 0.8):
        assert kept.happened == pytest.approx(kept.said, abs=0.08)


def test_promises_that_are_said_too_surely_show():
    kept = promises(figures(["a"], 0.2, off=0.4), 0.8)
    assert kept[-1].happened < kept[-1].said - 0.2


def test_the_faster_gpu_wins_as_often_as_is_said():
    for kept in wins(figures(["a", "b"], 0.2), 0.8):
        assert kept.happened == pytest.approx(kept.said, abs=0.08)


def test_one_gpu_beats_nobody():
    assert wins(figures(["a"], 0.2), 0.8) == []
