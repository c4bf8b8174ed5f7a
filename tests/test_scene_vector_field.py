"""Vector field: the whole table against NumPy in float64, on data by the recipe of the paper."""

import gallery
import numpy as np
from gallery import agree
from scipy.integrate import solve_ivp

from efisher_teach.figures.scenes.vector_field import STARTS, VIEW

PLACES = [(a, b) for a in (-1, 2, 5) for b in (-1, 1.75, 5)]
NOISES = {"vector_field": 1.0, "vector_field, noisy": 10.0}


class Field(gallery.Look):
    """The data by the paper's recipe, the optimum, H, and the table."""

    def __init__(self, name):
        super().__init__(name)
        self.noise = NOISES[name]
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
        points = path.sol(np.geomspace(1e-6, 399, 1000))[:2].T
        left = np.linalg.norm(points - self.optimum, axis=1)
        directions = np.array([velocity(point) for point in points[left > 0.01 * left[0]]])
        turns = np.diff(np.unwrap(np.arctan2(directions[:, 1], directions[:, 0])))
        return path.y[2, -1], np.rad2deg(np.abs(turns).sum())


case = gallery.looks("vector_field", kind=Field)


def test_fields_at_every_start(case):
    """Moments of the data serve the whole plane: against the gradients of all examples."""
    for start, at in case.states():
        off, v = start - case.optimum, case.ours(np.array(start))
        far = np.linalg.norm(off)
        agree(at, rtol=1e-6, start=start, place=start)
        agree(at, rtol=2e-3, step=np.linalg.norm(v))
        agree(at, atol=2e-3, cosine=-v @ off / np.linalg.norm(v) / far)
        agree(at, rtol=1e-4, gradient=np.linalg.norm(case.H @ off))
        agree(at, rtol=1e-3, natural_length=far, natural_left=[[0, far], [far, 0]])  # Newton's step: straight


def test_flows_by_another_integrator(case):
    for start in [*PLACES[::2], (2, 4.5), (4.5, 3)] if case.noise == 1 else PLACES[::3]:
        now = case.at(start)
        length, turning = case.walk(case.descent, start)
        agree(now, rtol=1e-3, descent_length=length, descent_ends=[length, 0])
        agree(now, atol=0.5, descent_turning=turning)
        length, turning = case.walk(lambda theta: (1 + case.noise**2) * case.ours(theta), start)
        agree(now, rtol=2e-3, length=length, ends=[length, 0])
        agree(now, atol=1.5, turning=turning)


def test_paths_lead_to_the_optimum_by_no_less_than_the_straight_way(case):
    """Their points lie on the path, and add up to it."""
    arrays = case.arrays
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
