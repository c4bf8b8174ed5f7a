"""Two budgets, over the whole map of c and r: the step, its two multipliers and ε, against bisection in float64."""

import gallery
import numpy as np
import pytest


class Oracle:
    """The scene, its table, C and g, and c and r over the map, (41, 1) and (1, 41); ε by bisection."""

    def __init__(self, name):
        self.scene, self.table = gallery.shown(name)
        self.G = G = gallery.gradients(self.scene.data["problem"])
        self.C, self.g = G.T @ G / len(G), G.mean(axis=0)
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


@pytest.fixture(params=gallery.cases("two_budgets", "two_budgets, wide"), scope="module")
def case(request):
    return Oracle(request.param)


def test_decrease_is_the_best_there_is_and_damping_the_ratio_of_the_multipliers(case):
    arrays, damping = case.table.arrays, case.damping
    gallery.agree(arrays, {"decrease": case.decrease, "wanted": case.c / case.r**2})
    gallery.agree(arrays, {"lowest": case.ends[0], "highest": case.ends[1]}, rtol=2e-3)
    first, second = (np.float64(arrays[name]) for name in ("of_budget", "of_radius"))
    both = (damping > 0) & np.isfinite(damping)
    assert both.mean() > 0.05
    inner = both & (abs(arrays["by_budget"] - 50) < 49)  # at its ends ε is as steep as a float32 is fine
    np.testing.assert_allclose((second / np.where(inner, first, 1))[inner], damping[inner], rtol=0.05)
    edge = abs(np.log(case.c / case.r**2)[..., None] - np.log(case.ends)).min(axis=-1) < 1e-4
    assert ((second == 0) == (damping == 0))[~edge].all()
    assert ((first == 0) == np.isinf(damping))[~edge].all()


def test_a_budget_is_kept_and_has_a_multiplier_only_if_used_up(case):
    arrays = case.table.arrays
    for used, multiplier in (("cost_used", "of_budget"), ("length_used", "of_radius")):
        assert arrays[used].max() <= 100.05
        binds = arrays[multiplier] > 1e-4 * arrays[multiplier].max()
        np.testing.assert_allclose(arrays[used][binds], 100, atol=0.2)
    assert np.maximum(arrays["cost_used"], arrays["length_used"]).min() > 99.9


def test_multipliers_are_the_slopes_of_the_decrease(case):
    """The envelope theorem: one more unit of c is worth λ₁, one more of r² is worth λ₂. And they sum up."""
    arrays, c, r = case.table.arrays, case.c, case.r
    decrease, first, second = (np.float64(arrays[n]) for n in ("decrease", "of_budget", "of_radius"))
    for multiplier, gain, step in (
        (first, decrease, np.diff(c, axis=0)),
        (second.T, decrease.T, np.diff(r**2).T),
    ):
        slope, slack = np.diff(gain, axis=0) / step, 2e-3 * multiplier.max()
        assert (slope <= multiplier[:-1] + slack).all()  # concave: the multiplier falls as the budget grows
        assert (slope >= multiplier[1:] - slack).all()
    np.testing.assert_allclose(2 * first * c + 2 * second * r**2, decrease, rtol=2e-3)
    by_budget = 200 * first * c / decrease
    gallery.agree(arrays, {"by_budget": by_budget, "by_radius": 100 - by_budget}, atol=0.3)


def test_crossing_is_on_the_curve(case):
    table, wanted = case.table, case.c / case.r**2
    damping, height = np.moveaxis(np.float64(table.arrays["crossing"]), -1, 0)
    np.testing.assert_allclose(height, np.clip(wanted, *case.ends), rtol=1e-3)
    inner = (wanted > case.ends[0] * 1.1) & (wanted < case.ends[1] / 1.02)
    np.testing.assert_allclose(case.ratio(damping)[inner], wanted[inner], rtol=1e-2)
    np.testing.assert_array_equal(table.arrays["drop"][..., 1, :], table.arrays["crossing"])
    low, high = table.background["ratio_limits"]
    shown = np.clip(wanted, low, high)[..., None]
    np.testing.assert_allclose(table.arrays["wanted_line"][..., 1], shown.repeat(2, axis=-1), rtol=1e-3)
    curve = table.background["ratios"]
    np.testing.assert_allclose(curve[8:], case.ratio(table.background["dampings"])[8:], rtol=5e-3)
    assert (np.diff(curve) >= -1e-5 * curve[-1]).all()
    np.testing.assert_allclose(table.background["ratio_ends"], case.ends, rtol=2e-3)
    borders = table.background["budgets"] / table.background["borders"] ** 2
    np.testing.assert_allclose(borders / case.ends[:, None], 1, rtol=2e-3)
    assert (table.arrays["place"] == np.stack(np.broadcast_arrays(case.c, case.r), axis=-1)).all()


def test_bounds_are_drawn_where_they_are(case):
    arrays, depends, c, r = case.table.arrays, case.table.depends, case.c, case.r
    along = -case.g / np.linalg.norm(case.g)
    u = np.linalg.pinv(case.C, rcond=1e-10) @ case.g
    across = -u + along * (along @ u)
    plane = np.stack([along, across / np.linalg.norm(across)], axis=1)
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
    gallery.agree(arrays, {"undamped": np.stack([0 * undamped, undamped], axis=1)}, rtol=2e-2, atol=1e-5)
    np.testing.assert_allclose(arrays["descent"][:, 1], r.T * [1, 0], rtol=1e-6)
    np.testing.assert_allclose(arrays["path"][:, 0], arrays["undamped"][:, 1], rtol=1e-5)


def test_presets_bind_as_they_say(case):
    for preset, (cost, length) in zip(
        case.scene.presets, ((100, None), (100, 100), (None, 100)), strict=True
    ):
        at = case.table.at(tuple(axis.nearest(preset.state[axis.name]) for axis in case.scene.axes))
        for used, expected in ((at["cost_used"], cost), (at["length_used"], length)):
            assert used == pytest.approx(100, abs=0.05) if expected else used < 95, preset.name
