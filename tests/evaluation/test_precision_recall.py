import math
import tracemalloc

from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.evaluation.precision_recall import (
    count_balls,
    inception_score,
    nearest_distances,
    neighborhood_scores,
    precision_and_recall,
    radii,
)


def test_the_inception_score_by_hand():
    # Two images of certain, different classes: mean share 1/2, KL ln 2, score 2.
    assert inception_score(np.diag([800.0, 800.0])) == pytest.approx(2)
    # All alike: every share is the mean.
    assert inception_score(np.tile([1.0, 2.0, 3.0], (4, 1))) == pytest.approx(1)
    # Shares (3/4, 1/4) and (1/4, 3/4) against (1/2, 1/2).
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    logits = np.log([[3.0, 1.0], [1.0, 3.0]])
    assert inception_score(logits) == pytest.approx(math.exp(kl))


def test_the_inception_score_is_the_mean_of_splits():
    logits = np.diag([50.0] * 4)
    assert inception_score(logits, split_size=2) == pytest.approx(2)
    assert inception_score(logits, split_size=4) == pytest.approx(4)
    # 4 and then 1 of one row.
    assert inception_score(np.r_[logits, logits[:1]], split_size=4) == pytest.approx(
        2.5
    )


def test_precision_and_recall_by_hand():
    # On a line, radius to the nearest other member. Real: 0, 1, 10 (radii 1, 1, 9).
    real = np.array([[0.0], [1.0], [10.0]])
    # Made: 0.5, 30, 31 (radii 29.5, 1, 1).
    made = np.array([[0.5], [30.0], [31.0]])
    # 0.5 is in the ball of 0; 30 and 31 are in none. All real ones are within 29.5.
    assert precision_and_recall(real, made, num_neighbors=1) == (
        pytest.approx(1 / 3),
        1.0,
    )


def test_density_and_coverage_by_hand():
    # Balls as above: 0.5 is in those of 0, 1; 10 is 9.5 away, and reaches 9.
    real = np.array([[0.0], [1.0], [10.0]])
    made = np.array([[0.5], [30.0], [31.0]])
    scores = neighborhood_scores(real, made, num_neighbors=1)
    assert scores == {
        "precision": pytest.approx(1 / 3),
        "recall": 1.0,
        "density": pytest.approx(2 / 3),
        "coverage": pytest.approx(2 / 3),
    }


def test_two_halves_of_one_law_have_the_scores_of_equal_laws():
    real, made = np.random.default_rng(0).normal(size=(2, 1000, 6))
    scores = neighborhood_scores(real, made)
    assert scores["density"] == pytest.approx(1, abs=0.06)
    assert scores["coverage"] == pytest.approx(1 - 2**-5, abs=0.02)
    assert min(scores["precision"], scores["recall"]) > 0.8
    # Half of the law is missing: what is there is dense, and covers half.
    some = made[made[:, 0] > 0]
    partial = neighborhood_scores(real, some)
    assert partial["precision"] > 0.8
    assert partial["coverage"] < 0.7


@given(seed=st.integers(0, 2**31 - 1))
def test_no_order_of_rows_changes_a_score(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(30, 5)), rng.normal(size=(20, 5)) + 0.5
    scores = neighborhood_scores(first, second)
    mixed = neighborhood_scores(rng.permutation(first), rng.permutation(second))
    assert mixed == pytest.approx(scores)
    pair = precision_and_recall(first, second, num_neighbors=5)
    assert (scores["precision"], scores["recall"]) == pair


@given(seed=st.integers(0, 2**31 - 1))
def test_a_set_covers_itself_and_swapping_swaps(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(30, 5)), rng.normal(size=(20, 5)) + 1
    assert precision_and_recall(first, first) == (1, 1)
    there = precision_and_recall(first, second)
    assert precision_and_recall(second, first) == pytest.approx(there[::-1])


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    rows, others = (rng.normal(size=(50, 4)).astype(np.float32) for _ in range(2))
    reach = radii(rows, 3)
    whole = reach, count_balls(others, rows, reach), nearest_distances(others, rows)
    monkeypatch.setattr("vtp_eqx.evaluation.precision_recall.BLOCK", 16)
    np.testing.assert_allclose(radii(rows, 3), whole[0], rtol=1e-5)
    assert (count_balls(others, rows, reach) == whole[1]).all()
    np.testing.assert_allclose(nearest_distances(others, rows), whole[2], rtol=1e-5)
    distances = ((rows[:, None] - rows) ** 2).sum(axis=-1)
    np.testing.assert_allclose(reach, np.sort(distances)[:, 3], rtol=1e-4)
    distances = ((others[:, None] - rows) ** 2).sum(axis=-1)
    assert (whole[1] == (distances <= reach).sum(axis=1)).all()
    np.testing.assert_allclose(whole[2], distances.min(axis=1), rtol=1e-4)


def test_radii_of_many_rows_do_not_keep_all_distances(monkeypatch):
    monkeypatch.setattr("vtp_eqx.evaluation.precision_recall.BLOCK", 64)
    rows = np.random.default_rng(0).normal(size=(2048, 2)).astype(np.float32)
    radii(rows, 3)  # compiles
    tracemalloc.start()
    radii(rows, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(rows) ** 2 / 4


def test_far_samples_are_outside_and_a_far_center_costs_no_digits():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(40, 3)) + 1e4
    assert precision_and_recall(real, real + 100) == (0, 0)
    near = precision_and_recall(real, real + 1e-3)
    assert near == (1, 1)


def test_too_few_members_are_an_error():
    with pytest.raises(ValueError, match="3 `made`"):
        precision_and_recall(np.zeros((9, 2)), np.zeros((3, 2)))
