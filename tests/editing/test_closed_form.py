"""The closed form: every identity that the methods rest on, in float64, on random keys."""

import pytest
import torch

from editing.methods.closed_form.alphaedit import null_space
from editing.solve.closed_form import FAINT, KeyMetric, cholesky, guarded, matrix_of, solve
from factscope.errors import EditError

TIGHT = 1e-10  # float64, well-conditioned systems of at most forty unknowns


@pytest.fixture
def layer():
    """W [12, 5], a second moment, three keys, three residuals."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    text = draw(200, 12) * torch.linspace(0.1, 3, 12)
    return {"W": draw(12, 5), "C": text.T @ text / 200, "K": draw(3, 12), "R": draw(3, 5), "bare": draw(3, 12)}


def test_without_a_ridge_every_key_meets_its_residual(layer):
    dense = solve(layer["K"], layer["R"], KeyMetric(layer["C"])).dense()
    torch.testing.assert_close(layer["K"] @ dense, layer["R"], atol=TIGHT, rtol=0)


def test_with_other_probes_they_meet_it_instead(layer):
    """ROME: the bare key meets the value exactly, the averaged one does not."""
    dense = solve(layer["K"][:1], layer["R"][:1], KeyMetric(layer["C"]), at=layer["bare"][:1]).dense()
    torch.testing.assert_close(layer["bare"][:1] @ dense, layer["R"][:1], atol=TIGHT, rtol=0)
    assert (layer["K"][:1] @ dense - layer["R"][:1]).norm() > 0.1


def test_rome_is_its_textbook_formula(layer):
    key, bare, residual = layer["K"][0], layer["bare"][0], layer["R"][0]
    u = torch.linalg.inv(layer["C"]) @ key
    textbook = torch.outer(u, residual) / (bare @ u)
    dense = solve(key[None], residual[None], KeyMetric(layer["C"]), at=bare[None]).dense()
    torch.testing.assert_close(dense, textbook, atol=1e-9, rtol=0)


def test_the_identity_gives_least_squares(layer):
    key, residual = layer["K"][0], layer["R"][0]
    dense = solve(key[None], residual[None], KeyMetric(None)).dense()
    torch.testing.assert_close(dense, torch.outer(key, residual) / (key @ key), atol=TIGHT, rtol=0)


def test_no_change_that_meets_the_residuals_disturbs_ordinary_keys_less(layer):
    best = solve(layer["K"], layer["R"], KeyMetric(layer["C"])).dense()
    disturbance = lambda change: torch.trace(change.T @ layer["C"] @ change)  # noqa: E731
    null = torch.linalg.qr(layer["K"].T, mode="complete").Q[:, 3:]  # directions that the keys do not see
    for seed in range(5):
        other = best + 0.1 * null @ torch.randn(
            9, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        torch.testing.assert_close(layer["K"] @ other, layer["R"], atol=TIGHT, rtol=0)
        assert disturbance(other) > disturbance(best)


def test_the_scale_of_the_moment_does_not_matter_to_an_exact_edit(layer):
    one = solve(layer["K"], layer["R"], KeyMetric(layer["C"])).dense()
    torch.testing.assert_close(
        solve(layer["K"], layer["R"], KeyMetric(1e4 * layer["C"])).dense(), one, atol=1e-8, rtol=0
    )


def test_scaling_the_moment_is_scaling_the_ridge(layer):
    one = solve(layer["K"], layer["R"], KeyMetric(layer["C"]), ridge=3.0).dense()
    torch.testing.assert_close(solve(layer["K"], layer["R"], KeyMetric(10 * layer["C"]), ridge=0.3).dense(), one)


@pytest.mark.parametrize("facts", [3, 40])
def test_push_through_both_forms_agree(layer, facts):
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(facts, 12, generator=generator, dtype=torch.float64)
    residuals = torch.randn(facts, 5, generator=generator, dtype=torch.float64)
    forms = [
        solve(keys, residuals, KeyMetric(layer["C"]), ridge=2.0, form=form).dense() for form in ("keys", "dimensions")
    ]
    torch.testing.assert_close(*forms, atol=1e-9, rtol=0)


def test_memit_misses_by_exactly_what_its_ridge_says(layer):
    keys, residuals, ridge = layer["K"], layer["R"], 2.0
    missed = keys @ solve(keys, residuals, KeyMetric(layer["C"]), ridge=ridge).dense() - residuals
    gram = keys @ torch.linalg.inv(layer["C"]) @ keys.T
    expected = -ridge * torch.linalg.inv(ridge * torch.eye(3, dtype=torch.float64) + gram) @ residuals
    torch.testing.assert_close(missed, expected, atol=1e-9, rtol=0)


def test_memit_does_not_care_about_the_order_of_facts(layer):
    order = torch.tensor([2, 0, 1])
    one = solve(layer["K"], layer["R"], KeyMetric(layer["C"]), ridge=2.0).dense()
    other = solve(layer["K"][order], layer["R"][order], KeyMetric(layer["C"]), ridge=2.0).dense()
    torch.testing.assert_close(one, other, atol=TIGHT, rtol=0)


def test_memit_with_a_vanishing_ridge_is_r_rome(layer):
    exact = solve(layer["K"][:1], layer["R"][:1], KeyMetric(layer["C"])).dense()
    gaps = [
        (solve(layer["K"][:1], layer["R"][:1], KeyMetric(layer["C"]), ridge=ridge).dense() - exact).norm()
        for ridge in (1e-3, 1e-4, 1e-5)
    ]
    assert gaps[0] > 9 * gaps[1] > 80 * gaps[2]  # linear in the ridge


def test_emmet_is_memit_with_lambda_w_times_eps(layer):
    w, eps = 50.0, 0.1
    emmet = solve(layer["K"], layer["R"], KeyMetric(w * layer["C"]), ridge=eps).dense()
    memit = solve(layer["K"], layer["R"], KeyMetric(layer["C"]), ridge=w * eps).dense()
    torch.testing.assert_close(emmet, memit, atol=TIGHT, rtol=0)


def test_without_eps_w_cancels(layer):
    one, other = (solve(layer["K"], layer["R"], KeyMetric(w * layer["C"])).dense() for w in (1.0, 1000.0))
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_alphaedit_stays_in_its_null_space_and_is_ridge_regression_there(layer):
    null = null_space(layer["C"], 0.3)
    project = null @ null.T
    inside = layer["K"] @ project
    dense = solve(inside, layer["R"], KeyMetric(None), ridge=0.5).dense()
    torch.testing.assert_close(project @ dense, dense, atol=TIGHT, rtol=0)
    outside = torch.linalg.qr(null, mode="complete").Q[:, null.shape[1] :]
    torch.testing.assert_close(outside.T @ dense, torch.zeros_like(outside.T @ dense), atol=TIGHT, rtol=0)
    papers = torch.linalg.solve(
        project @ layer["K"].T @ layer["K"] + 0.5 * torch.eye(12, dtype=torch.float64),
        project @ layer["K"].T @ layer["R"],
    )
    torch.testing.assert_close(dense, papers, atol=1e-9, rtol=0)


@pytest.mark.parametrize("moment", ["C", None])
@pytest.mark.parametrize("count", [1, 5, 30])
def test_keys_are_held_without_a_factor_of_their_own_as_with_one(layer, moment, count):
    """Woodbury against the factor of the whole sum, in one go and in two; 30 keys are more than the dimensions."""
    past = torch.randn(count, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = KeyMetric(None if moment is None else layer[moment])
    whole = KeyMetric(guarded(2.5 * matrix_of(plain.matrix, 12), past))
    thin = plain.times(2.5).holding(past)
    split = plain.times(5.0).times(0.5).holding(past[:1]).holding(past[1:])
    for one in (thin, split):
        torch.testing.assert_close(one.dense(12), whole.matrix)
        torch.testing.assert_close(one.solve(layer["K"].T), whole.solve(layer["K"].T), atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(
            one.times(3.0).solve(layer["K"].T), whole.solve(layer["K"].T) / 3, atol=1e-10, rtol=1e-8
        )
        for form in ("keys", "dimensions"):
            ours, theirs = (solve(layer["K"], layer["R"], m, ridge=0.7, form=form).dense() for m in (one, whole))
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


def test_past_keys_are_protected(layer):
    """A = I + K_p' K_p / lambda: the more weight, the less an earlier key's output moves."""
    past = torch.randn(2, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    moved = [
        (
            past
            @ solve(layer["K"], layer["R"], KeyMetric(torch.eye(12).double() + w * past.T @ past), ridge=0.5).dense()
        ).norm()
        for w in (0.0, 10.0, 1000.0)
    ]
    assert moved[0] > 5 * moved[1] > 50 * moved[2]


def test_the_report_counts_what_a_dense_matrix_would(layer):
    solution = solve(layer["K"], layer["R"], KeyMetric(layer["C"]), ridge=1.0)
    report, dense = solution.report("w", layer["W"], layer["C"]), solution.dense()
    ratio = torch.trace(dense.T @ layer["C"] @ dense) / torch.trace(layer["W"].T @ layer["C"] @ layer["W"])
    assert report.disturbance == pytest.approx(float(ratio), rel=1e-9)
    assert report.norm == pytest.approx(float(dense.norm() / layer["W"].norm()), rel=1e-9)
    missed = layer["K"] @ dense - layer["R"]
    assert report.residual == pytest.approx(float(missed.norm() / layer["R"].norm()), rel=1e-9)


def test_the_delta_of_many_facts_is_dense_and_of_few_is_factors(layer):
    assert solve(layer["K"], layer["R"], KeyMetric(layer["C"])).delta("w").low_rank
    many = solve(torch.randn(30, 12).double(), torch.randn(30, 5).double(), KeyMetric(layer["C"]), ridge=1.0).delta("w")
    assert not many.low_rank
    assert many.right.shape == (12, 5)


def test_two_facts_with_one_key_are_refused_without_a_ridge_and_averaged_with_one(layer):
    keys = layer["K"][[0, 0]]
    with pytest.raises(EditError, match="same key"):
        solve(keys, layer["R"][:2], KeyMetric(layer["C"]))
    dense = solve(keys, layer["R"][:2], KeyMetric(layer["C"]), ridge=1e-6).dense()
    torch.testing.assert_close(keys[0] @ dense, layer["R"][:2].mean(0), atol=1e-5, rtol=0)


def test_a_key_orthogonal_to_the_update_is_warned_of(layer):
    u = torch.linalg.solve(layer["C"], layer["K"][0])
    along = layer["bare"][0] - u * (layer["bare"][0] @ u) / (u @ u) + 1e-4 * u
    solution = solve(layer["K"][:1], layer["R"][:1], KeyMetric(layer["C"]), at=along[None])
    assert "disabling" in solution.note
    assert "disabling" not in solve(layer["K"][:1], layer["R"][:1], KeyMetric(layer["C"])).note
    usual = torch.logspace(0, 8, len(layer["C"]), dtype=torch.float64)  # of an ordinary key, far from u, but k u > 0
    tilted = solve(usual.sqrt()[None], layer["R"][:1], KeyMetric(torch.diag(usual)))
    assert tilted.division < FAINT
    assert tilted.note == ""


def test_a_singular_moment_is_mended_and_said_so():
    half = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, jitter = cholesky(half.T @ half)
    assert 0 < jitter < 1e-4
    with pytest.raises(EditError, match="not positive definite"):
        cholesky(-torch.eye(3, dtype=torch.float64))
