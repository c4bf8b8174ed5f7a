"""Vector field: the digits of facts 5.4 at the paper's starts, and the whole table against NumPy in float64."""

import gallery
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from efisher_teach.figures.scenes.vector_field import STARTS, VIEW

# start, ‖C⁻¹g‖, cosine with the natural gradient, length of the path, of the straight one (facts 5.4)
PAPER = [
    ((2, 4.5), 0.337, -0.150, 6.35, 2.515),
    ((1, 0), 0.3317, 0.322, 6.38, 2.23),
    ((4.5, 3), 0.3080, 0.875, 5.69, 2.69),
    ((-0.5, 3), 0.5146, 0.990, 2.74, 2.71),
]
PLACES = [(a, b) for a in (-1, 2, 5) for b in (-1, 1.75, 5)]
NOISES = {"vector_field": 1.0, "vector_field, noisy": 10.0}


class Field:
    """The data by the paper's recipe, the optimum, H, and the table."""

    def __init__(self, name):
        self.noise, self.table = NOISES[name], gallery.shown(name)[1]
        rng = np.random.RandomState(0)
        x = np.stack([np.ones(1000), rng.lognormal(0, 0.75, 1000)], axis=1)
        self.x, self.y = x, x @ [2, 2] + self.noise * rng.normal(size=1000)
        self.H = x.T @ x / 1000 + 0.01 * np.eye(2)
        self.optimum = np.linalg.solve(self.H, x.T @ self.y / 1000)

    def at(self, start):
        return self.table.at(tuple(int(np.argmin(np.abs(STARTS - value))) for value in start))

    def ours(self, theta):
        """−C⁻¹g from the gradients of all examples; the prior is in g alone."""
        G = -(self.y - self.x @ theta)[:, None] * self.x
        return -np.linalg.solve(G.T @ G / 1000, G.mean(0) + 0.01 * theta)

    def descent(self, theta):
        return -self.H @ (theta - self.optimum)

    def walk(self, velocity, start):
        """Length of a flow, and what it turns by until a hundredth of the distance is left."""

        def rates(_, state):
            v = velocity(state[:2])
            return np.r_[v, np.linalg.norm(v)]

        path = solve_ivp(rates, (0, 400), [*start, 0], "LSODA", rtol=1e-8, atol=1e-10, dense_output=True)
        points = path.sol(np.geomspace(1e-6, 399, 4000))[:2].T
        left = np.linalg.norm(points - self.optimum, axis=1)
        directions = np.array(
            [velocity(point) for point in points[left > 0.01 * np.linalg.norm(start - self.optimum)]]
        )
        turns = np.diff(np.unwrap(np.arctan2(directions[:, 1], directions[:, 0])))
        return path.y[2, -1], np.rad2deg(np.abs(turns).sum())


@pytest.fixture(params=gallery.cases("vector_field"), scope="module")
def case(request):
    return Field(request.param)


@pytest.mark.parametrize(("start", "step", "cosine", "length", "straight"), PAPER)
def test_digits_of_the_paper(start, step, cosine, length, straight):
    field = Field("vector_field")
    now = field.at(start)
    gallery.agree(now, {"start": start, "place": start}, rtol=1e-6)  # the grid has it
    gallery.agree(now, {"step": step, "cosine": cosine}, atol=5e-4)
    gallery.agree(now, {"length": length, "natural_length": straight}, atol=5e-3)
    np.testing.assert_allclose(field.table.background["optimum"], [2.0120, 1.9855], atol=5e-5)
    if start == (2, 4.5):  # the empirical Fisher moves the intercept
        gallery.agree(now, {"gradient": 7.63}, atol=5e-3)
        first = now["path"][1] - now["path"][0]
        np.testing.assert_allclose(first / np.linalg.norm(first), [-0.99, 0.15], atol=1e-2)


def test_fields_at_every_start(case):
    """Moments of the data serve the whole plane: against the gradients of all examples."""
    for i, j in np.ndindex(len(STARTS), len(STARTS)):
        start = np.array([STARTS[i], STARTS[j]])
        off, v, at = start - case.optimum, case.ours(start), case.table.at((i, j))
        far = np.linalg.norm(off)
        gallery.agree(at, {"step": np.linalg.norm(v)}, rtol=2e-3)
        gallery.agree(at, {"cosine": -v @ off / np.linalg.norm(v) / far}, atol=2e-3)
        gallery.agree(at, {"gradient": np.linalg.norm(case.H @ off)}, rtol=1e-4)
        gallery.agree(
            at, {"natural_length": far, "natural_left": [[0, far], [far, 0]]}
        )  # Newton's step: straight


def test_flows_by_another_integrator(case):
    for start in [*PLACES[::2], (2, 4.5), (4.5, 3)] if case.noise == 1 else PLACES[::3]:
        now = case.at(start)
        length, turning = case.walk(case.descent, start)
        gallery.agree(now, {"descent_length": length, "descent_ends": [length, 0]})
        gallery.agree(now, {"descent_turning": turning}, atol=0.5)
        length, turning = case.walk(lambda theta: (1 + case.noise**2) * case.ours(theta), start)
        gallery.agree(now, {"length": length, "ends": [length, 0]}, rtol=2e-3)
        gallery.agree(now, {"turning": turning}, atol=1.5)


def test_paths_lead_to_the_optimum_by_no_less_than_the_straight_way(case):
    """Their points lie on the path, and add up to it."""
    arrays = case.table.arrays
    for name in ("path", "descent", "natural"):
        np.testing.assert_allclose(arrays[name][..., 0, :], arrays["start"], atol=1e-5)
        np.testing.assert_allclose(arrays[name][..., -1, :] - case.optimum, 0, atol=1e-4)
        assert (np.clip(arrays[name], *VIEW) == arrays[name]).all()
    for path, left, length in (("path", "left", "length"), ("descent", "descent_left", "descent_length")):
        assert (arrays[length] >= arrays["natural_length"] * (1 - 1e-5)).all()
        points, ways = arrays[path], arrays[left]
        np.testing.assert_allclose(np.linalg.norm(points - case.optimum, axis=-1), ways[..., 1], atol=1e-4)
        chords = np.linalg.norm(np.diff(points, axis=-2), axis=-1)
        assert (chords <= np.diff(ways[..., 0]) * (1 + 1e-3) + 1e-4).all()
        np.testing.assert_allclose(chords.sum(-1), arrays[length], rtol=0.01)
    np.testing.assert_array_equal(arrays["natural_ends"][..., 0], arrays["natural_length"])
