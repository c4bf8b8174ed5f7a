"""Every scene of the course as the tests and the pictures show it: by its name, and at extreme settings."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from oracles import direction

import efisher_teach as ef
from efisher_teach.browser.packing import prepare
from efisher_teach.figures import scenes
from efisher_teach.network.training import Trial

CHARTS = ("affine", "exp", "square", "logit")


@cache
def problem(name):
    """The data that scenes are shown on, somewhat trained."""

    def tumours(features, steps):
        return ef.descend(ef.breast_cancer(features), steps=steps, learning_rate=0.5)

    return {
        "two": lambda: tumours(2, 6),
        "fitted": lambda: tumours(2, 5000),
        "fresh": lambda: ef.descend(ef.breast_cancer(), steps=3),
        "logistic": lambda: ef.descend(ef.logistic_regression(seed=3), steps=2, learning_rate=0.5),
        "linear": lambda: ef.descend(ef.linear_regression(seed=1), steps=1, learning_rate=0.3),
        "exact": lambda: ef.linear_regression(n=16, noise=1e-6, seed=5),
        "few": lambda: ef.descend(ef.linear_regression(n=17, seed=1), steps=1, learning_rate=0.3),
        "thirty": lambda: tumours(None, 50),
        "inside": lambda: ef.breast_cancer()._replace(params=jnp.array([0.6, 0.2])),
        "radii": lambda: tumours(("mean radius", "worst radius"), 6),
        "three": lambda: tumours(("worst perimeter", "worst concavity", "worst texture"), 6),
        "two examples": lambda: ef.linear_regression(2, 3, seed=1),
        "network": lambda: ef.descend(ef.digits(), steps=5, learning_rate=0.2),
        "rescaled": relu_network,
        "small network": lambda: ef.digits(hidden=(6,), side=4),
        "wide": lambda: ef.logistic_regression(n=40, p=60, seed=2),
    }[name]()


STEPS, RIVALS = np.arange(40), {"descent": 0.2, "adam": 0.22, "natural": 0.24}
OURS = {"c": {0.1: 0.05, 0.3: 0.15}, "memory, η": {0.1: 0.08, 1.0: 0.12, 3.0: 0.01}}


def runs():
    """Losses that fall at these rates: two runs of each rival; of ours one blew up, and one took longer."""

    def trial(rate):
        return Trial(np.exp(-rate * STEPS), 0.01 / (1 + rate))

    rivals = {name: {setting: trial(setting) for setting in (0.1, rate)} for name, rate in RIVALS.items()}
    ours = {name: {setting: trial(rate) for setting, rate in rates.items()} for name, rates in OURS.items()}
    ours["c"][0.3] = Trial(np.r_[np.ones(6), np.nan], 0.01)
    ours["memory, η"][1.0] = ours["memory, η"][1.0]._replace(seconds=0.5)
    return rivals, ours


LEVELS, EPSILONS = (0.5, 0.3, 0.1, 0.02), (1e-3, 0.03, 0.3, 1e6)


def left_behind():
    """Rare kinds, of which descent neglects two, and wrong labels, at some levels: what the scene is given."""
    rng, level = np.random.default_rng(0), np.array(LEVELS)
    rare = np.stack([rng.uniform(0.3, 1, (2, 5, 3, 4)), rng.uniform(0.5, 2, (2, 5, 3, 4)) * level], axis=-1)
    rare[1, :2, ..., 1] = 6 * level
    wrong = np.stack([rng.uniform(0.6, 0.9, (2, 4, 3, 4)), rng.uniform(1, 3, (2, 4, 3, 4)) * level], axis=-1)
    return rare, wrong


def relu_network():
    """Digits, and two layers with a ReLU between, somewhat trained."""

    def loss_fn(weights, x, y):
        return -jax.nn.log_softmax(weights[1] @ jnp.maximum(weights[0] @ x, 0))[y]

    digits = ef.digits((6,), side=4)
    digits = digits._replace(loss_fn=loss_fn, params=[layer["W"] for layer in digits.params])
    return ef.descend(digits, steps=40, learning_rate=0.3)


def in_chart(chart):
    return scenes.other_coordinates(problem("inside"), chart)


GALLERY = {
    "start_here": lambda: scenes.start_here(problem("radii")),
    "start_here, round": lambda: scenes.start_here(problem("logistic"), budget=0.04),
    "batches_and_memory": lambda: scenes.batches_and_memory(problem("two")),
    "batches_and_memory, steps": lambda: scenes.batches_and_memory(problem("two"), remember="steps"),
    "every_example_pulls": lambda: scenes.every_example_pulls(problem("two")),
    "every_example_pulls, drawn": lambda: scenes.every_example_pulls(problem("logistic"), seed=2),
    "every_example_pulls, few": lambda: scenes.every_example_pulls(problem("few")),
    "what_a_step_costs": lambda: scenes.what_a_step_costs(problem("two")),
    "what_a_step_costs, widest": lambda: scenes.what_a_step_costs(problem("logistic"), budget=0.04),
    "what_a_step_costs, few": lambda: scenes.what_a_step_costs(problem("few"), budget=0.002),
    "the_best_step": lambda: scenes.the_best_step(problem("two")),
    "the_best_step, widest": lambda: scenes.the_best_step(problem("fresh"), budget=0.04),
    "the_best_step, linear": lambda: scenes.the_best_step(problem("linear"), budget=0.002),
    "the_best_step, logistic": lambda: scenes.the_best_step(problem("logistic"), budget=0.04),
    "bug_hunt": lambda: scenes.bug_hunt(problem("two")),
    "bug_hunt, fresh": lambda: scenes.bug_hunt(problem("logistic"), seed=1),
    "proof": lambda: scenes.proof(problem("two")),
    "proof, damped": lambda: scenes.proof(problem("wide"), budget=0.04, damping=1e-2),
    "damping": lambda: scenes.damping(problem("thirty")),
    "damping, two": lambda: scenes.damping(problem("two"), budget=0.04),
    "damping, wide": lambda: scenes.damping(problem("wide"), budget=0.002),
    "damping, linear": lambda: scenes.damping(problem("linear"), budget=0.04),
    "solid": lambda: scenes.solid(problem("three")),
    "solid, a cylinder": lambda: scenes.solid(problem("two examples"), budget=0.04),
    "solid, a slab": lambda: scenes.solid(ef.linear_regression(1, 3, seed=4), budget=0.002),
    "two_budgets": lambda: scenes.two_budgets(problem("radii")),
    "two_budgets, wide": lambda: scenes.two_budgets(problem("wide")),
    "two_budgets, thirty": lambda: scenes.two_budgets(problem("thirty")),
    "a_whole_run": lambda: scenes.a_whole_run(problem("exact")),
    "a_whole_run, noisy": lambda: scenes.a_whole_run(problem("linear")),
    "four_ways_to_weigh": scenes.four_ways_to_weigh,
    "other_coordinates": lambda: in_chart("polar"),
    **{f"other_coordinates, {chart}": partial(in_chart, chart) for chart in CHARTS},
    "fisher_hessian": lambda: scenes.fisher_hessian(problem("fitted")),
    "fisher_hessian, drawn": lambda: scenes.fisher_hessian(problem("logistic")),
    "rescaled_layers": lambda: scenes.rescaled_layers(problem("rescaled")),
    "noise_and_curvature": scenes.noise_and_curvature,
    "vector_field": scenes.vector_field,
    "vector_field, noisy": lambda: scenes.vector_field(noise=10.0),
    "rare_and_wrong": lambda: scenes.rare_and_wrong(LEVELS, EPSILONS, *left_behind()),
    "should_all_improve": lambda: scenes.should_all_improve(problem("thirty")),
    "should_all_improve, wide": lambda: scenes.should_all_improve(problem("wide")),
    "should_all_improve, noisy": lambda: scenes.should_all_improve(
        problem("thirty"), imbalance=0.2, noise=0.3
    ),
    "your_model": lambda: scenes.your_model(problem("network")),
    "your_model, gradients": lambda: scenes.your_model(G=np.random.default_rng(0).normal(0.3, 1, (40, 200))),
    "your_model, eigenvectors": lambda: scenes.your_model(
        problem("thirty"), plane="eigenvectors", budget=0.04
    ),
    "which_matrix": lambda: scenes.which_matrix(problem("small network")),
    "which_matrix, softmax": lambda: scenes.which_matrix(ef.digits(hidden=(), side=4), seed=1),
    "a_real_network": lambda: scenes.a_real_network(*runs(), first="memory, η"),
}
BARE = [name for name in GALLERY if "," not in name]


def usual(cases, *chosen):
    """The chosen ones of some cases as they are; the others are for `make test-all`."""
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.heavy) for case in cases]


CASES = usual(GALLERY, *BARE, "solid, a cylinder")


@cache
def shown(name):
    """A scene and its table."""
    scene = GALLERY[name]()
    return scene, scenes.tabulate(scene)


@cache
def prepared(name):
    """All that an explorer shows of it, in both forms, without a widget."""
    scene, table = shown(name)
    return prepare(scene, table, ("wide", "narrow") if scene.narrow else ("wide",))


@cache
def explorer(name):
    """An explorer of it; at its default state unless a test leaves it elsewhere."""
    return ef.Explorer(GALLERY[name]())


def states(scene):
    """Indices: the default, the corners of the axes, and along each axis from end to end."""
    default = tuple(axis.nearest(axis.default) for axis in scene.axes)
    last = tuple(len(axis.values) - 1 for axis in scene.axes)
    yield from {default, (0,) * len(last), last}
    for place, end in enumerate(last):
        for index in {0, end // 3, end // 2, end}:
            yield *default[:place], index, *default[place + 1 :]


# What the tests of single scenes hold against them: regressions by their formulas, in float64.


def regression(problem, delta=0.0):
    """Losses and their slopes ∂ℓ/∂z at θ + Δ, for one Δ or many: (…, n) each."""
    x, y = np.float64(problem.x), np.float64(problem.y)
    z = (np.float64(problem.params) + delta) @ x.T
    if problem.likelihood.name == "Gaussian":
        return (z - y) ** 2 / 2, z - y
    return np.logaddexp(0, z) - y * z, 1 / (1 + np.exp(-z)) - y


def gradients(problem):
    """G (n, p)."""
    return regression(problem)[1][:, None] * np.float64(problem.x)


def changes(problem, delta):
    """The changes of the losses that steps make, (…, n)."""
    return regression(problem, delta)[0] - regression(problem)[0]


def cost(G, delta):
    """ΔᵀCΔ of one step or of many."""
    return np.mean((delta @ G.T) ** 2, axis=-1)


def spend(G, u, budget):
    """The step along −u that costs as much."""
    return -u * np.sqrt(budget / cost(G, u))


def turned(step, other):
    """Degrees from one step to another in the plane, against the clock."""
    return np.degrees(np.arctan2(step[0] * other[1] - step[1] * other[0], step @ other))


def agree(shown, rtol=1e-7, atol=0.0, where=..., **expected):
    """Hold arrays of a table, or a part of each, against what an oracle expects by the same names."""
    for name, value in expected.items():
        found, value = (np.asarray(each)[where] if np.ndim(each) else each for each in (shown[name], value))
        np.testing.assert_allclose(found, value, rtol=rtol, atol=atol, err_msg=name)


class Look:
    """A scene with its table, and G, g and C by hand where it is of a regression."""

    def __init__(self, name):
        self.name, (self.scene, self.table) = name, shown(name)
        self.arrays, self.view = self.table.arrays, self.table.background
        self.problem, self.budget = (self.scene.data.get(part) for part in ("problem", "budget"))
        if self.problem and np.shape(self.problem.x)[1:] == getattr(self.problem.params, "shape", None):
            self.G = gradients(self.problem)
            self.g, self.C = self.G.mean(axis=0), self.G.T @ self.G / len(self.G)

    def states(self, *places):
        """What the axes say, and the arrays there: at these places, or everywhere."""
        axes = [np.float64(np.float32(axis.values)) for axis in self.scene.axes]
        for place in places or np.ndindex(*map(len, axes)):
            yield [axis[i] for axis, i in zip(axes, place, strict=True)], self.table.at(place)

    def views(self):
        """The arrays at each preset, in their order."""
        for preset in self.scene.presets:
            state = {axis.name: axis.default for axis in self.scene.axes} | preset.state
            yield self.table.at(tuple(axis.nearest(state[axis.name]) for axis in self.scene.axes))

    def plane(self):
        """The basis (p, 2) of the plane of −g and −C⁺g, the first along −g."""
        along, undamped = -self.g / np.linalg.norm(self.g), -direction(self.G, 0.0)
        across = undamped - along * (along @ undamped)
        return np.stack([along, across / np.linalg.norm(across)], axis=1)


def looks(scene, *chosen, kind=Look):
    """A fixture: the scene as it is bare, and on the chosen data; on others for `make test-all`."""
    names = [name for name in GALLERY if name.split(",")[0] == scene]

    @pytest.fixture(params=usual(names, scene, *chosen), scope="module")
    def case(request):
        return kind(request.param)

    return case


def luminance(colour):
    """Relative luminance of a colour, and the contrast of two, by WCAG 2.2."""
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
