"""Scores by hand, and what every registered one has to give."""

from __future__ import annotations

import math

import pytest

from nas.training.scores import SCORES, EpochScore, Validation, scores

CURVE = (
    EpochScore(1, 3.0, 0.1),
    EpochScore(2, 2.0, 0.1, Validation(0.5, 0.25, 1.5)),
    EpochScore(3, 1.0, 0.1, Validation(0.75, 0.5, 1.25)),
)
AVERAGE = Validation(0.8, 0.625, 1.0)


def test_scores_by_hand():
    expected = {"map": 0.5, "map_last": 0.375, "map_average": 0.625, "val_loss": -1.25, "train_loss": -2.0}
    assert scores(CURVE, AVERAGE) == expected
    assert scores(CURVE, None) == {k: v for k, v in expected.items() if k != "map_average"}


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_one_number_in_words(name):
    score = SCORES[name]
    assert score.words
    assert math.isfinite(score.of(CURVE, AVERAGE))
    if score.untrained:
        assert math.isfinite(score.of((EpochScore(0, 2.0, 0.1, AVERAGE),), None))
