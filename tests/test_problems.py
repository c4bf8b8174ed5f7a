"""The problems: what they hold, where it comes from, and that their losses behave."""

import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

import efisher_teach as ef

PROBLEMS = {
    "linear": ef.linear_regression,
    "logistic": ef.logistic_regression,
    "cancer 2": ef.breast_cancer,
    "cancer 30": lambda **options: ef.breast_cancer(None, **options),
    "digits": lambda **options: ef.digits((8,), **options),
}


@pytest.fixture(scope="module")
def problems():
    return {name: make() for name, make in PROBLEMS.items()}


@pytest.mark.parametrize(
    ("name", "n", "held_out", "features"),
    [
        ("linear", 64, 64, 2),
        ("logistic", 64, 64, 2),
        ("cancer 2", 455, 114, 2),
        ("cancer 30", 455, 114, 30),
        ("digits", 1437, 360, 64),
    ],
)
def test_shapes(problems, name, n, held_out, features):
    problem = problems[name]
    assert problem.x.shape == (n, features)
    assert problem.x_test.shape == (held_out, features)
    assert problem.y.shape == (n,)
    assert problem.y_test.shape == (held_out,)
    assert problem.loss_fn(problem.params, problem.x[0], problem.y[0]).shape == ()


@pytest.mark.parametrize("name", ["cancer 2", "cancer 30", "digits"])
def test_real_data_are_standardised_by_the_training_part(problems, name):
    x, held_out = np.asarray(problems[name].x, float), np.asarray(problems[name].x_test, float)
    varies = x.std(axis=0) > 0  # digits have pixels that are always 0
    # A mean of 1437 float32 numbers of size 1, each rounded to 6e-8, is good to 1e-6.
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0)[varies], 1, atol=1e-6)
    assert varies.sum() >= 2
    assert not x[:, ~varies].any()
    assert np.abs(held_out.mean(axis=0)).max() > 1e-3  # the held-out part was not standardised by itself


def test_held_out_tumours_and_digits_are_others(problems):
    """The raw rows are all different, so 569 different rows in both parts together means none is in both."""
    for name, raw in [("cancer 30", load_breast_cancer().data), ("digits", load_digits().data)]:
        both = np.vstack([problems[name].x, problems[name].x_test])
        assert len(np.unique(raw, axis=0)) == len(np.unique(both, axis=0)) == len(raw)


def test_labels(problems):
    cancer, digits = problems["cancer 2"], problems["digits"]
    labels = np.r_[cancer.y, cancer.y_test]
    assert set(labels) == {0, 1}
    assert labels.sum() == 212  # 1 is malignant: 212 of 569, by the description of the data set
    malignant = np.asarray(cancer.y == 1)
    assert np.all(
        cancer.x[malignant].mean(axis=0) > cancer.x[~malignant].mean(axis=0)
    )  # larger, more concave
    every = np.r_[digits.y, digits.y_test]
    np.testing.assert_array_equal(np.bincount(every), np.bincount(load_digits().target))
    assert jnp.issubdtype(digits.y.dtype, jnp.integer)


@pytest.mark.parametrize("name", PROBLEMS)
def test_seed_decides(problems, name):
    again, other = PROBLEMS[name](seed=0), PROBLEMS[name](seed=1)
    np.testing.assert_array_equal(problems[name].x, again.x)
    assert problems[name].x.shape == other.x.shape
    assert not np.array_equal(problems[name].x, other.x)


def test_digits_params_are_layers(problems):
    shapes = jax.tree.map(jnp.shape, problems["digits"].params)
    assert shapes == [{"W": (8, 64), "b": (8,)}, {"W": (10, 8), "b": (10,)}]
    assert jax.tree.map(jnp.shape, ef.digits(()).params) == [{"W": (10, 64), "b": (10,)}]
    deep = ef.digits((5, 4), seed=3).params
    assert [layer["W"].shape for layer in deep] == [(5, 64), (4, 5), (10, 4)]


def test_toys_have_their_closed_forms(problems):
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.normal(size=2), float)
    linear, logistic = problems["linear"], problems["logistic"]
    x, y = np.asarray(linear.x, float), np.asarray(linear.y, float)
    losses = ef.per_example_losses(linear.loss_fn, theta, linear.x, linear.y)
    np.testing.assert_allclose(losses, (y - x @ theta) ** 2 / 2, rtol=1e-5, atol=1e-6)  # float32
    z, y = np.asarray(logistic.x, float) @ theta, np.asarray(logistic.y)
    losses = ef.per_example_losses(logistic.loss_fn, theta, logistic.x, logistic.y)
    np.testing.assert_allclose(losses, np.log1p(np.exp(z)) - y * z, rtol=1e-5, atol=1e-6)


def test_predictions(problems):
    for name in ("logistic", "cancer 2"):
        problem = problems[name]
        assert problem.predict_fn(problem.params, problem.x[0]) == 0.5  # θ = 0 knows nothing
        np.testing.assert_allclose(ef.mean_loss(problem, problem.params), np.log(2), rtol=1e-6)
    digits = problems["digits"]
    probabilities = jax.vmap(digits.predict_fn, in_axes=(None, 0))(digits.params, digits.x[:5])
    assert probabilities.shape == (5, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    losses = ef.per_example_losses(digits.loss_fn, digits.params, digits.x[:5], digits.y[:5])
    chosen = probabilities[jnp.arange(5), digits.y[:5]]
    np.testing.assert_allclose(losses, -np.log(chosen), rtol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "cancer 30", "digits"])
def test_losses_stay_finite_far_out(problems, name):
    """At |z| ~ 1e4, where exp(z) overflows in float32 (and in float64)."""
    problem = problems[name]
    far = jax.tree.map(lambda leaf: 1e4 * (leaf + 1), problem.params)
    x, y = problem.x[:50], problem.y[:50]
    losses = ef.per_example_losses(problem.loss_fn, far, x, y)
    assert float(losses.max()) > 1e3
    assert jnp.isfinite(losses).all()
    assert jnp.isfinite(ef.per_example_gradients(problem.loss_fn, far, x, y)).all()


@pytest.mark.parametrize("name", ["linear", "cancer 30", "digits"])
def test_descend_lowers_the_loss(problems, name):
    problem = problems[name]
    after = ef.descend(problem, steps=5, learning_rate=0.1)
    assert ef.mean_loss(after, after.params) < ef.mean_loss(problem, problem.params)
    assert after.x is problem.x
    one = ef.descend(problem, steps=1, learning_rate=0.1).params
    gradient = jax.grad(lambda params: ef.mean_loss(problem, params))(problem.params)
    by_hand = jax.tree.map(lambda leaf, g: leaf - 0.1 * g, problem.params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, by_hand)


def test_a_problem_is_a_pytree_of_its_arrays(problems):
    """Compiled functions take it whole and are compiled once; vmap goes over its parameters; `_replace` stays."""
    problem, compiled = problems["linear"], []

    @jax.jit
    def loss(problem):
        compiled.append(problem.name)
        return ef.mean_loss(problem, problem.params)

    moved = problem._replace(params=jnp.ones(2))
    assert isinstance(moved, ef.Problem)
    for each in (problem, moved):
        np.testing.assert_allclose(loss(each), ef.mean_loss(each, each.params), rtol=1e-6)
    assert compiled == ["linear regression"]
    many = problem._replace(params=jnp.stack([problem.params, moved.params]))
    axes = problem._replace(params=0, x=None, y=None, x_test=None, y_test=None)
    np.testing.assert_allclose(jax.vmap(loss, (axes,))(many), [loss(problem), loss(moved)], rtol=1e-6)
    assert len(jax.tree.leaves(problem)) == 5


def test_no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a problem reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    for make in PROBLEMS.values():
        assert jnp.isfinite(make(seed=2).x).all()
