"""Should all improve? The whole table against ridge regressions in NumPy and float64."""

import gallery
import numpy as np
import oracles
from gallery import agree

from efisher_teach.figures.scenes.should_all_improve import SHOWN, TARGETS, should_all_improve

PLACES = [(i, j) for i in (0, 12, 28, 40) for j in (0, 3, 5, 10)]  # of ε and the target
NAMES = [f"should_all_improve, {data}" for data in ("wide", "noisy")]


class Kept(gallery.Look):
    """Beside the table, of the examples that are kept: the three wishes, and the second group."""

    def __init__(self, name):
        super().__init__(name)
        kept, flipped = (np.asarray(self.scene.data[part]) == 1 for part in ("kept", "flipped"))
        self.problem = self.problem._replace(x=self.problem.x[kept], y=self.problem.y[kept])
        self.second = flipped[kept] if "noisy" in name else np.asarray(self.problem.y) == 1
        self.G = gallery.gradients(self.problem)
        losses, slope = gallery.regression(self.problem)
        self.wishes = [each / each.mean() for each in (np.ones_like(slope), slope**2, losses)]

    def wish(self, target):
        """t, from 1 over (∂ℓ/∂z)² to ℓ, each of mean 1."""
        low = int(target > 0.5)
        return self.wishes[low] + (2 * target - low) * (self.wishes[low + 1] - self.wishes[low])

    def step(self, damping, target):
        """Ridge regression of the wish on the gradients, at the cost c."""
        u = oracles.direction(self.G, damping, self.wish(target))
        return gallery.spend(self.G, u, self.budget)

    def means(self, changes):
        """Of both groups."""
        return np.array([changes[~self.second].mean(), changes[self.second].mean()])


case = gallery.looks("should_all_improve", *NAMES, kind=Kept)


def ranks(values):
    """The examples with a bar, from the largest decrease."""
    return np.argsort(values)[((np.arange(SHOWN) + 0.5) / SHOWN * len(values)).astype(int)]


def assert_worse(percent, values):
    """Those above 0, where those that only rounding tells from 0 count or not."""
    assert 100 * np.mean(values > 2e-6) - 1e-3 <= percent <= 100 * np.mean(values > -2e-6) + 1e-3


def test_changes_of_the_examples_and_groups(case):
    arrays, rms = case.arrays, np.sqrt(case.budget)
    for (epsilon, target), at in case.states(*PLACES):
        delta = case.step(epsilon, target)
        predicted, actual = case.G @ delta, gallery.changes(case.problem, delta)
        order = ranks(predicted)
        heights = at["bars"][:, 1, 1] + at["flipped_bars"][:, 1, 1]
        np.testing.assert_allclose(heights, predicted[order] / rms, atol=5e-3)
        assert (at["bars"][:, 1, 1] * at["flipped_bars"][:, 1, 1] == 0).all()
        if "wide" not in case.name:  # there the order of equal changes is rounding
            np.testing.assert_allclose(at["changes"][:, 1], actual[order] / rms, atol=0.02)
        first, second = case.means(actual)
        agree(at, atol=2e-5, first=first, second=second)
        np.testing.assert_allclose(at["groups"][:, 1, 1] * rms, [first, second], atol=2e-5)
        assert_worse(at["actual_worse"], actual)
        assert_worse(at["worse"], predicted)
        # Cantelli, of the changes that are predicted.
        bound = 1 - min(predicted.mean(), 0) ** 2 / np.mean(predicted**2)
        agree(at, atol=0.02, bound=100 * bound, bound_dot=[epsilon, 100 * bound])
        worse, actual_worse = ([epsilon, at[number]] for number in ("worse", "actual_worse"))
        agree(at, rtol=1e-5, worse_dot=worse, actual_dot=actual_worse)
    assert (arrays["worse"] <= arrays["bound"] + 1e-3).all()
    for path, number in (("worse_path", "worse"), ("bound_path", "bound"), ("actual_path", "actual_worse")):
        np.testing.assert_allclose(arrays[path][..., 1].T, arrays[number], atol=101 / len(case.G))


def test_descent_costs_the_same(case):
    arrays, rms = case.arrays, np.sqrt(case.budget)
    delta = gallery.spend(case.G, case.G.mean(axis=0), case.budget)
    predicted, means = case.G @ delta, case.means(gallery.changes(case.problem, delta))
    np.testing.assert_allclose(arrays["descent"][:, 1], predicted[ranks(predicted)] / rms, atol=2e-3)
    agree(arrays, atol=2e-5, descent_first=means[0], descent_second=means[1])
    np.testing.assert_allclose(arrays["descent_groups"][:, 1, 1] * rms, means, atol=2e-5)


def test_no_step_has_a_lower_bound_than_the_undamped_empirical_fisher(case):
    """ρ of a wish is the part of its square that steps can fulfil; of equal wishes, 1 − ρ is the least bound."""
    arrays, bound = case.arrays, case.arrays["bound"]
    for j in (0, 5, 10):
        t = case.wish(TARGETS[j])
        reached = case.G @ np.linalg.lstsq(case.G, t)[0]
        np.testing.assert_allclose(arrays["agreement"][j], np.mean(reached * t) / np.mean(t**2), atol=1e-4)
    least = 100 * (1 - arrays["agreement"][0])
    np.testing.assert_allclose(case.view["undamped"], least, atol=0.02)
    np.testing.assert_allclose(bound[0, 0], least, atol=0.5)
    assert (bound >= least - 0.02).all()
    assert (np.diff(bound[:, 0]) > -0.01).all()  # and it grows with ε


def test_who_is_kept_and_flipped():
    problem = gallery.problem("thirty")
    scene = should_all_improve(problem, imbalance=0.25, noise=0.2)
    kept, flipped = (np.asarray(scene.data[name]) == 1 for name in ("kept", "flipped"))
    old, new, positive = np.asarray(problem.y), np.asarray(scene.data["problem"].y), int(np.sum(problem.y))
    assert (old[kept].sum(), (1 - old[kept]).sum()) == (round(0.25 * positive), len(old) - positive)
    assert flipped.sum() == round(0.2 * kept.sum())
    assert ((old != new) == flipped).all()
    other = should_all_improve(problem, imbalance=0.25, noise=0.2, seed=1).data
    assert all((scene.data[name] != other[name]).any() for name in ("kept", "flipped"))
