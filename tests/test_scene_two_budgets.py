"""Two budgets, over the whole map of c and r: the step, its two multipliers and ε, against bisection in float64."""

import gallery
import numpy as np
import pytest
from gallery import agree


class Oracle(gallery.Look):
    """Beside the table: c and r over the map, (41, 1) and (1, 41), and ε by bisection."""

    def __init__(self, name):
        super().__init__(name)
        c, r = (np.float32(axis.values).astype(float) for axis in self.scene.axes)
        self.c, self.r = c[:, None], r[None]
        values, V = np.linalg.eigh(self.C)
        kept = values > 1e-10 * values[-1]
        self.values, self.power = values[kept], (V.T @ self.g)[kept] ** 2
        self.ends = self.ratio([0, 1e9])
        self.damping, self.decrease = self.solve()

    def ratio(self, damping):
        """R(ε) = Σ μw/Σ w for w = |Vᵀg|²/(μ + ε)², where μ is not 0."""
        weights = self.power / (self.values + np.asarray(damping)[..., None]) ** 2
        return (weights * self.values).sum(axis=-1) / weights.sum(axis=-1)

    def solve(self):
        """ε over the map (0 or ∞ where one budget binds), and the best decrease."""
        wanted = self.c / self.r**2
        low, high = np.full(wanted.shape, -40.0), np.full(wanted.shape, 25.0)
        for _ in range(80):
            middle = (low + high) / 2
            under = self.ratio(np.exp(middle)) < wanted
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        free, short = wanted <= self.ratio(0.0), wanted >= self.g @ self.C @ self.g / (self.g @ self.g)
        damping = np.where(free, 0, np.exp(middle))
        damped = self.values + damping[..., None]
        rise = (self.power / damped).sum(axis=-1)
        spends = (self.power * self.values / damped**2).sum(axis=-1)
        decrease = np.where(short, self.r * np.linalg.norm(self.g), rise * np.sqrt(self.c / spends))
        return np.where(short, np.inf, damping), decrease


case = gallery.looks("two_budgets", "two_budgets, wide", kind=Oracle)


def test_decrease_is_the_best_there_is_and_damping_the_ratio_of_the_multipliers(case):
    """A budget is kept, and has a multiplier only if it is used up; what they are worth sums up to the decrease."""
    arrays, damping, c, r = case.arrays, case.damping, case.c, case.r
    agree(arrays, rtol=1e-3, decrease=case.decrease, wanted=c / r**2)
    agree(arrays, rtol=2e-3, lowest=case.ends[0], highest=case.ends[1])
    first, second = (np.float64(arrays[name]) for name in ("of_budget", "of_radius"))
    both = (damping > 0) & np.isfinite(damping)
    assert both.mean() > 0.05
    inner = both & (abs(arrays["by_budget"] - 50) < 49)  # at its ends ε is as steep as a float32 is fine
    np.testing.assert_allclose((second / np.where(inner, first, 1))[inner], damping[inner], rtol=0.05)
    edge = abs(np.log(c / r**2)[..., None] - np.log(case.ends)).min(axis=-1) < 1e-4
    assert ((second == 0) == (damping == 0))[~edge].all()
    assert ((first == 0) == np.isinf(damping))[~edge].all()
    np.testing.assert_allclose(2 * first * c + 2 * second * r**2, case.decrease, rtol=2e-3)
    by_budget = 200 * first * c / case.decrease
    agree(arrays, atol=0.3, by_budget=by_budget, by_radius=100 - by_budget)
    cost_used = np.where(np.isinf(damping), 100 * case.ends[1] * r**2 / c, 100)
    length_used = np.where(damping == 0, 100 * c / r**2 / case.ends[0], 100)
    agree(arrays, rtol=2e-3, cost_used=cost_used, length_used=length_used)
    assert max(arrays["cost_used"].max(), arrays["length_used"].max()) <= 100.05


def test_crossing_is_on_the_curve(case):
    arrays, view, wanted = case.arrays, case.view, case.c / case.r**2
    damping, height = np.moveaxis(np.float64(arrays["crossing"]), -1, 0)
    np.testing.assert_allclose(height, np.clip(wanted, *case.ends), rtol=1e-3)
    inner = (wanted > case.ends[0] * 1.1) & (wanted < case.ends[1] / 1.02)
    np.testing.assert_allclose(case.ratio(damping)[inner], wanted[inner], rtol=1e-2)
    np.testing.assert_array_equal(arrays["drop"][..., 1, :], arrays["crossing"])
    low, high = view["ratio_limits"]
    shown = np.clip(wanted, low, high)[..., None]
    np.testing.assert_allclose(arrays["wanted_line"][..., 1], shown.repeat(2, axis=-1), rtol=1e-3)
    curve = view["ratios"]
    np.testing.assert_allclose(curve[8:], case.ratio(view["dampings"])[8:], rtol=5e-3)
    assert (np.diff(curve) >= -1e-5 * curve[-1]).all()
    np.testing.assert_allclose(view["ratio_ends"], case.ends, rtol=2e-3)
    borders = view["budgets"] / view["borders"] ** 2
    np.testing.assert_allclose(borders / case.ends[:, None], 1, rtol=2e-3)
    assert (arrays["place"] == np.stack(np.broadcast_arrays(case.c, case.r), axis=-1)).all()


def test_bounds_are_drawn_where_they_are(case):
    arrays, depends, c, r = case.arrays, case.table.depends, case.c, case.r
    plane, u = case.plane(), np.linalg.pinv(case.C, rcond=1e-10) @ case.g
    near = np.linalg.norm(arrays["ellipse"][-1], axis=-1) < 2.9 * r.max()
    spent = gallery.cost(case.G, arrays["ellipse"][:, near] @ plane.T)
    np.testing.assert_allclose(spent / c, 1, rtol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(arrays["circle"], axis=-1), r.T + np.zeros(97), rtol=1e-5)
    np.testing.assert_array_equal(arrays["disc"][:, 0], arrays["circle"])
    np.testing.assert_array_equal(arrays["inside"][:, 0], arrays["ellipse"])
    assert [depends[name] for name in ("ellipse", "circle", "path")] == [(0,), (1,), (0,)]
    np.testing.assert_allclose(arrays["level"][..., 0], arrays["step"][..., [1, 1], 0], rtol=1e-6)
    promised = arrays["step"][..., 1, 0] * np.linalg.norm(case.g)  # how far along −g is what it promises
    np.testing.assert_allclose(promised, arrays["decrease"], rtol=1e-3)
    undamped = (-u * np.sqrt(c / gallery.cost(case.G, u))) @ plane
    agree(arrays, rtol=2e-2, atol=1e-5, undamped=np.stack([0 * undamped, undamped], axis=1))
    np.testing.assert_allclose(arrays["descent"][:, 1], r.T * [1, 0], rtol=1e-6)
    np.testing.assert_allclose(arrays["path"][:, 0], arrays["undamped"][:, 1], rtol=1e-5)


def test_presets_bind_as_they_say(case):
    binds = (100, None), (100, 100), (None, 100)
    for at, (cost, length) in zip(case.views(), binds, strict=True):
        for used, expected in ((at["cost_used"], cost), (at["length_used"], length)):
            assert used == pytest.approx(100, abs=0.05) if expected else used < 95
