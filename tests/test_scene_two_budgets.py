"""Two budgets, over the whole map of c and r: the step, its two multipliers and ε, against bisection in float64."""

import gallery
import numpy as np
import pytest

from efisher_teach.figures import scenes

PROBLEMS = ("radii", "two", "thirty", "wide")


@pytest.fixture(params=gallery.usual(PROBLEMS, "radii", "wide"), scope="module")
def case(request):
    """The scene, its table, C and g in float64, and c and r over the map, (41, 1) and (1, 41)."""
    problem = gallery.problem(request.param)
    scene = scenes.two_budgets(problem)
    G = gallery.gradients(problem)
    c, r = (np.float32(axis.values).astype(float) for axis in scene.axes)
    return scene, scenes.tabulate(scene), G.T @ G / len(G), G.mean(axis=0), c[:, None], r[None]


def spectral(case):
    """μ and |Vᵀg|² where μ is not 0, with R(ε) = Σ μw/Σ w for w = |Vᵀg|²/(μ + ε)²."""
    values, V = np.linalg.eigh(case[2])
    kept = values > 1e-10 * values[-1]
    return values[kept], (V.T @ case[3])[kept] ** 2


def ratio(case, damping):
    values, power = spectral(case)
    weights = power / (values + np.asarray(damping)[..., None]) ** 2
    return (weights * values).sum(axis=-1) / weights.sum(axis=-1)


def solve(case):
    """By bisection on log ε: ε over the map (0 or ∞ where one budget binds), and the best decrease."""
    c, r = case[4:]
    values, power = spectral(case)
    wanted = c / r**2
    low, high = np.full(wanted.shape, -40.0), np.full(wanted.shape, 25.0)
    for _ in range(80):
        middle = (low + high) / 2
        under = ratio(case, np.exp(middle)) < wanted
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    damping = np.exp(middle)
    free, short = wanted <= ratio(case, 0.0), wanted >= case[3] @ case[2] @ case[3] / (case[3] @ case[3])
    damping = np.where(free, 0, damping)
    rise = (power / (values + damping[..., None])).sum(axis=-1)
    spends = (power * values / (values + damping[..., None]) ** 2).sum(axis=-1)
    decrease = np.where(short, r * np.linalg.norm(case[3]), rise * np.sqrt(c / spends))
    return np.where(short, np.inf, damping), decrease


def test_decrease_is_the_best_there_is(case):
    np.testing.assert_allclose(case[1].arrays["decrease"], solve(case)[1], rtol=1e-3)


def test_damping_is_the_ratio_of_the_multipliers(case):
    damping, _ = solve(case)
    first, second = (np.float64(case[1].arrays[name]) for name in ("of_budget", "of_radius"))
    both = (damping > 0) & np.isfinite(damping)
    assert both.mean() > 0.05
    inner = both & (
        abs(case[1].arrays["by_budget"] - 50) < 49
    )  # at its ends ε is as steep as a float32 is fine
    np.testing.assert_allclose((second / np.where(inner, first, 1))[inner], damping[inner], rtol=0.05)
    edge = abs(np.log(case[4] / case[5] ** 2)[..., None] - np.log(ratio(case, [0, 1e9]))).min(axis=-1) < 1e-4
    assert ((second == 0) == (damping == 0))[~edge].all()
    assert ((first == 0) == np.isinf(damping))[~edge].all()


def test_a_budget_is_kept_and_has_a_multiplier_only_if_used_up(case):
    arrays = case[1].arrays
    for used, multiplier in (("cost_used", "of_budget"), ("length_used", "of_radius")):
        assert arrays[used].max() <= 100.05
        np.testing.assert_allclose(
            arrays[used][arrays[multiplier] > 1e-4 * arrays[multiplier].max()], 100, atol=0.2
        )
    assert np.maximum(arrays["cost_used"], arrays["length_used"]).min() > 99.9


def test_multipliers_are_the_slopes_of_the_decrease(case):
    """The envelope theorem: one more unit of c is worth λ₁, one more of r² is worth λ₂. And they sum up."""
    arrays, c, r = case[1].arrays, case[4], case[5]
    decrease, first, second = (np.float64(arrays[n]) for n in ("decrease", "of_budget", "of_radius"))
    for multiplier, gain, step in (
        (first, decrease, np.diff(c, axis=0)),
        (second.T, decrease.T, np.diff(r**2).T),
    ):
        slope, slack = np.diff(gain, axis=0) / step, 2e-3 * multiplier.max()
        assert (slope <= multiplier[:-1] + slack).all()  # concave: the multiplier falls as the budget grows
        assert (slope >= multiplier[1:] - slack).all()
    np.testing.assert_allclose(2 * first * c + 2 * second * r**2, decrease, rtol=2e-3)
    np.testing.assert_allclose(arrays["by_budget"], 200 * first * c / decrease, atol=0.3)
    np.testing.assert_allclose(arrays["by_budget"] + arrays["by_radius"], 100, atol=1e-3)


def test_crossing_is_on_the_curve(case):
    _, table, *_, c, r = case
    damping, height = np.moveaxis(np.float64(table.arrays["crossing"]), -1, 0)
    ends = ratio(case, [0, 1e9])
    np.testing.assert_allclose(height, np.clip(c / r**2, *ends), rtol=1e-3)
    inner = (c / r**2 > ends[0] * 1.1) & (c / r**2 < ends[1] / 1.02)
    np.testing.assert_allclose(ratio(case, damping)[inner], (c / r**2)[inner], rtol=1e-2)
    curve = table.background["ratios"]
    np.testing.assert_allclose(curve[8:], ratio(case, table.background["dampings"])[8:], rtol=5e-3)
    assert (np.diff(curve) >= -1e-5 * curve[-1]).all()
    np.testing.assert_allclose(table.background["ratio_ends"], ends, rtol=2e-3)
    borders = table.background["budgets"] / table.background["borders"] ** 2
    np.testing.assert_allclose(borders / ends[:, None], 1, rtol=2e-3)
    assert (table.arrays["place"] == np.stack(np.broadcast_arrays(c, r), axis=-1)).all()


def test_bounds_are_drawn_where_they_are(case):
    _, table, C, g, c, r = case
    along = -g / np.linalg.norm(g)
    u = np.linalg.pinv(C, rcond=1e-10) @ g
    across = -u + along * (along @ u)
    plane = np.stack([along, across / np.linalg.norm(across)], axis=1)
    near = np.linalg.norm(table.arrays["ellipse"][-1], axis=-1) < 2.9 * r.max()
    points = table.arrays["ellipse"][:, near] @ plane.T
    spent = np.einsum("cki,ij,ckj->ck", points, C, points)
    np.testing.assert_allclose(spent / c, 1, rtol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(table.arrays["circle"], axis=-1), r.T + np.zeros(97), rtol=1e-5)
    assert [table.depends[name] for name in ("ellipse", "circle", "path")] == [(0,), (1,), (0,)]
    np.testing.assert_allclose(table.arrays["level"][..., 0], table.arrays["step"][..., [1, 1], 0], rtol=1e-6)
    promised = table.arrays["step"][..., 1, 0] * np.linalg.norm(g)  # how far along −g is what it promises
    np.testing.assert_allclose(promised, table.arrays["decrease"], rtol=1e-3)
    np.testing.assert_allclose(table.arrays["path"][:, 0], table.arrays["undamped"][:, 1], rtol=1e-5)


def test_presets_bind_as_they_say(case):
    scene, table, *_ = case
    for preset, (cost, length) in zip(scene.presets, ((100, None), (100, 100), (None, 100)), strict=True):
        at = table.at(tuple(axis.nearest(preset.state[axis.name]) for axis in scene.axes))
        for used, expected in ((at["cost_used"], cost), (at["length_used"], length)):
            assert used == pytest.approx(100, abs=0.05) if expected else used < 95, preset.name
