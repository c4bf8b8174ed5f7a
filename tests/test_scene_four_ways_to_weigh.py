"""Four ways to weigh, against SciPy's programs for four examples: three rows that are alike, and a fourth."""

import gallery
import numpy as np
import pytest
from gallery import agree
from scipy.optimize import lsq_linear, nnls

# Places of angle, length and ε.
STATES = [(24, 6, 0), (12, 10, 0), (24, 2, 0), (24, 2, 4), (34, 12, 2), (3, 0, 1)]
case = gallery.looks("four_ways_to_weigh")


def ways(G, damping):
    """The step of each, by its definition on all rows."""
    n = len(G)
    C, g = G.T @ G / n, G.mean(axis=0)
    shortest, _ = nnls(np.vstack([G.T, 1e4 * np.ones(n)]), np.array([0, 0, 1e4]))  # α ≥ 0, Σ α = 1
    projected = [G.T @ lsq_linear(G.T, np.zeros(2), (np.eye(n)[i], np.full(n, np.inf))).x for i in range(n)]
    return {
        "descent": -g,
        "equal": -np.linalg.solve(C + damping * np.eye(2), g),
        "hull": -G.T @ shortest,
        "projected": -np.mean(projected, axis=0),
    }


@pytest.mark.parametrize("state", STATES, ids=str)
def test_directions_and_changes_are_those_of_the_programs(case, state):
    (((angle, length, damping), arrays),) = case.states(state)
    turn = np.deg2rad(angle)
    G = np.array([[1.0, 0], [1, 0], [1, 0], length * np.array([np.cos(turn), np.sin(turn)])])
    for name, delta in ways(G, damping).items():
        changes, unit = G @ delta / np.sqrt(np.mean((G @ delta) ** 2)), delta / np.linalg.norm(delta)
        agree(arrays, atol=2e-3, **{f"{name}_step": [[0, 0], unit]})
        agree(arrays, atol=4e-3, **{f"{name}_three": changes[0], f"{name}_fourth": changes[3]})
        weights = arrays[f"{name}_weights"][:, 1, 1]  # upper left corners
        np.testing.assert_allclose(abs(weights).sum(), 1, rtol=1e-5)
        combined = -(weights[0] * G[0] + weights[1] * G[3])
        np.testing.assert_allclose(combined / np.linalg.norm(combined), unit, atol=2e-3)


def test_no_loss_rises_in_the_grey_cone_and_it_is_all_of_it(case):
    angles = case.scene.axes[0].values
    for turn, cone in zip(np.deg2rad(angles), case.arrays["allowed"][:, 0], strict=True):
        tips = cone[1:] / np.linalg.norm(cone[1:], axis=1, keepdims=True)
        rises = tips @ np.array([[1, 0], [np.cos(turn), np.sin(turn)]]).T
        assert (rises < 1e-3).all()
        np.testing.assert_allclose(rises[[0, 2], [0, 1]], 0, atol=1e-6)  # each edge: one of them stays


def test_only_the_empirical_fisher_goes_uphill(case):
    """The presets' claims: descent lets the fourth pay; a loud one gets a negative weight; damping gives descent."""
    conflict, loud, quiet, damped = case.views()
    assert conflict["descent_fourth"] > 0.1
    assert max(conflict[f"{name}_fourth"] for name in ("equal", "hull", "projected")) < -0.3
    assert loud["share"] < -3
    assert loud["hull_weights"][1, 1, 1] == 0
    assert quiet["share"] > 80
    assert damped["equal_fourth"] == pytest.approx(damped["descent_fourth"], abs=0.05)
