"""Intervals by simulation, by symmetry and against closed forms."""

import math

import numpy as np
import pytest
import torch

from factscope.statistics import (
    ENOUGH,
    bca,
    bootstrap_tail,
    effective_number,
    interval,
    interval_in_words,
    likely_best,
    ngram_entropy,
    percentile_bootstrap,
    resampled_means,
    shares_of_best,
    standard_error,
    student_quantile,
    wilson,
)


def test_a_shares_interval_is_the_textbooks_and_shrinks_with_more_facts():
    few, many = wilson([1.0] * 5), wilson([1.0] * 500)
    assert few[0] < many[0] < 1
    assert few[1] == pytest.approx(1)
    assert wilson([0.0, 1.0] * 50) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    assert interval([0.0, 1.0] * 50, "share") == wilson([0.0, 1.0] * 50)


def test_a_mean_of_few_facts_has_no_interval_and_words_say_so():
    low, high = interval([1.0] * (ENOUGH - 1), "nats")
    assert math.isnan(low)
    assert math.isnan(high)
    assert interval_in_words(low, high, ENOUGH - 1) == "under 5 facts"
    alike = interval([1.0] * ENOUGH, "nats")
    assert math.isnan(alike[0])  # and not from 1 to 1
    assert interval_in_words(*alike, ENOUGH) == "all alike, or of few subjects"
    assert interval_in_words(0.25, 0.5, ENOUGH) == "0.250 to 0.500"


def test_facts_of_one_subject_count_as_one():
    """Twenty facts of two subjects are two observations: as wide as two, and too few for a bootstrap."""
    values, two = [1.0] * 10 + [0.0] * 10, ["a"] * 10 + ["b"] * 10
    assert wilson(values, two) == wilson([1.0, 0.0])
    assert math.isnan(bca(np.array([values]), groups=two)[0])
    rng = np.random.default_rng(3)
    once = rng.normal(size=30)
    names = [str(number) for number in range(30)]
    repeated = bca(np.repeat(once, 7)[None], groups=[name for name in names for _ in range(7)])
    assert repeated == pytest.approx(bca(once[None]))
    assert bca(once[None], groups=names) == bca(once[None])
    low, high = bca(np.repeat(once, 7)[None])
    assert (high - low) * 2 < repeated[1] - repeated[0]  # as if there were seven times as many: 1 / sqrt(7)


def test_groups_of_unequal_size_weigh_by_their_facts():
    values = np.array([[1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    groups = ["a", "a", "a", "b", "c", "d", "e"]
    low, high = bca(values, groups=groups)
    assert low <= 4 / 7 <= high


def test_a_large_group_is_most_of_what_is_known():
    """Fifty facts of one subject and nine of nine others: little more than what the fifty say, and Wilson knows it."""
    names = ["a"] * 50 + list("bcdefghij")
    assert effective_number(names) == pytest.approx(59**2 / (50**2 + 9))
    assert effective_number(["a", "b", "b", "a"]) == 2
    assert effective_number(()) == 0
    n = effective_number(names)
    assert wilson([1.0] * 59, names)[0] == pytest.approx(n / (n + 1.96**2))  # between those of one fact and of two
    assert wilson([1.0])[0] < wilson([1.0] * 59, names)[0] < wilson([1.0] * 2)[0]


def test_students_quantiles_are_the_tables():
    assert student_quantile(0.975, 1) == pytest.approx(12.706, abs=1e-3)
    assert student_quantile(0.975, 4) == pytest.approx(2.776, abs=1e-3)
    assert student_quantile(0.95, 2) == pytest.approx(2.920, abs=1e-3)
    assert student_quantile(0.05, 30) == pytest.approx(-1.697, abs=1e-3)
    assert bootstrap_tail(100_000) == pytest.approx(0.025, abs=1e-4)


def test_a_bootstrap_moves_and_scales_with_the_values():
    values = np.random.default_rng(0).gamma(1.0, size=12)
    low, high = bca(values[None])
    assert bca(3 * values[None] + 2) == (pytest.approx(3 * low + 2), pytest.approx(3 * high + 2))
    assert low < values.mean() < high
    mirrored = bca(-values[None])  # the same resamples, so it is the mirror image but for the ends' interpolation
    assert mirrored == (pytest.approx(-high, rel=0.02), pytest.approx(-low, rel=0.02))
    assert high - values.mean() > values.mean() - low  # gamma has its long tail above


def test_a_bootstrap_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        low, high = bca(rng.exponential(size=(1, 40)))
        held += low <= 1 <= high
    assert 0.90 <= held / 400 <= 0.98  # Efron 1987: near 95 %, a little below for skewed values; 400 draws: 0.011

    few = torch.from_numpy(rng.normal(size=(5, 2000)))
    _, below, above = percentile_bootstrap(few)
    # not expanded, 0.82; all five are on one side of the mean in 1 of 16 samples, so 0.9375 is the most there is
    assert 0.88 < float(((below <= 0) & (above >= 0)).float().mean()) < 0.95


def test_a_large_sample_gives_the_normal_interval():
    values = torch.from_numpy(np.random.default_rng(2).normal(size=2000))
    low, high = bca(values.numpy()[None])
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error(values), rel=0.08)  # 2,000 resamples: 3 % at 2.5 %
    for by, bootstrap in zip(percentile_bootstrap(values[:, None]), (float(values.mean()), low, high), strict=True):
        assert float(by) == pytest.approx(bootstrap, abs=0.2 * standard_error(values))


def test_a_grid_with_absent_values_averages_those_that_are_there():
    values = torch.tensor([[1.0, math.nan, math.nan, 0.0], [3.0, 5.0, math.nan, 1.0]]).repeat(4, 1)
    mean, low, high = percentile_bootstrap(values)
    assert mean[:2].tolist() == [2.0, 5.0]
    assert 1 < low[0] < 2 < high[0] < 3
    assert all(bool(each[2].isnan()) for each in (mean, low, high))
    assert bool(low[1].isnan())  # four facts have it: too few for an interval, however alike they are
    assert bool(high[1].isnan())


def test_facts_of_one_subject_are_drawn_together():
    """Each of 40 facts four times over is no more than the 40; as 160 facts it would look like twice as much."""
    values = torch.from_numpy(np.random.default_rng(3).normal(size=(40, 1)))
    names = [str(number) for number in range(40)]
    once = percentile_bootstrap(values)
    again = percentile_bootstrap(values.repeat(4, 1), groups=names * 4)
    for one, other in zip(once, again, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(percentile_bootstrap(values, groups=names)[1], once[1], rtol=0, atol=0)
    _, low, high = percentile_bootstrap(values.repeat(4, 1))
    assert float(high - low) == pytest.approx(float(once[2] - once[1]) / 2, rel=0.15)


def test_the_best_of_equals_is_any_of_them_and_a_clear_one_stands_alone():
    rng = np.random.default_rng(4)
    alike = shares_of_best(resampled_means(rng.normal(size=(400, 1)) + 0.2 * rng.normal(size=(400, 4))))
    assert alike.sum() == pytest.approx(1)
    assert len(likely_best(alike)) > 1
    clear = rng.normal(size=(50, 3)) + np.array([0.0, 5.0, 0.0])
    assert shares_of_best(resampled_means(clear)).tolist() == [0, 1, 0]
    assert likely_best(np.array([0.0, 1.0, 0.0])) == (1,)
    assert likely_best(np.array([0.3, 0.05, 0.65])) == (0, 2)
    assert shares_of_best(np.ones((7, 2))).tolist() == [0.5, 0.5]


def test_ngram_entropy_of_a_loop_is_zero_and_of_distinct_words_is_the_log_of_their_number():
    assert math.isnan(ngram_entropy(["two words"]))
    assert ngram_entropy(["two words", "a a a a"]) == pytest.approx(0)
    assert ngram_entropy(["a a a a a"]) == pytest.approx(0)
    words = " ".join(str(i) for i in range(10))
    expected = torch.tensor([9.0, 8.0, 8.0]).log2().sum() / 3  # 9 bigrams, 8 trigrams twice
    assert ngram_entropy([words]) == pytest.approx(float(expected))
