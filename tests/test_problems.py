"""The problems: what they hold, where it comes from, and that their losses behave."""

import socket
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

import efisher_teach as ef

PROBLEMS = {  # how each is made, its examples, how many are held out, and its features
    "linear": (ef.linear_regression, 64, 64, 2),
    "logistic": (ef.logistic_regression, 64, 64, 2),
    "cancer 2": (ef.breast_cancer, 455, 114, 2),
    "cancer 30": (lambda **options: ef.breast_cancer(None, **options), 455, 114, 30),
    "digits": (lambda **options: ef.digits((8,), **options), 1437, 360, 64),
}


@pytest.fixture(scope="module")
def problems():
    return {name: make() for name, (make, *_) in PROBLEMS.items()}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_drawn(problems, name, monkeypatch):
    """Shapes; the seed decides; nothing is downloaded."""

    def refuse(*_, **__):
        raise AssertionError("a problem reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    problem, (make, n, held_out, features) = problems[name], PROBLEMS[name]
    assert (problem.x.shape, problem.y.shape) == ((n, features), (n,))
    assert (problem.x_test.shape, problem.y_test.shape) == ((held_out, features), (held_out,))
    assert problem.loss_fn(problem.params, problem.x[0], problem.y[0]).shape == ()
    np.testing.assert_array_equal(problem.x, make(seed=0).x)
    assert not np.array_equal(problem.x, make(seed=1).x)


@pytest.mark.parametrize(("name", "load"), [("cancer 30", load_breast_cancer), ("digits", load_digits)])
def test_real_data_are_standardised_by_the_training_part(problems, name, load):
    x, held_out = np.asarray(problems[name].x, float), np.asarray(problems[name].x_test, float)
    varies = x.std(axis=0) > 0  # digits have pixels that are always 0
    # A mean of 1437 float32 numbers of size 1, each rounded to 6e-8, is good to 1e-6.
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0)[varies], 1, atol=1e-6)
    assert varies.sum() >= 2
    assert not x[:, ~varies].any()
    assert np.abs(held_out.mean(axis=0)).max() > 1e-3  # the held-out part was not standardised by itself
    # The raw rows are all different: as many different rows in both parts together means none is in both.
    assert len(np.unique(load().data, axis=0)) == len(np.unique(np.vstack([x, held_out]), axis=0))


def test_labels(problems):
    cancer, digits = problems["cancer 2"], problems["digits"]
    labels = np.r_[cancer.y, cancer.y_test]
    assert set(labels) == {0, 1}
    assert labels.sum() == 212  # 1 is malignant: 212 of 569, by the description of the data set
    malignant = np.asarray(cancer.y == 1)
    larger = cancer.x[malignant].mean(axis=0) > cancer.x[~malignant].mean(axis=0)  # and more concave
    assert larger.all()
    names = tuple(map(str, load_breast_cancer().feature_names))
    np.testing.assert_array_equal(ef.breast_cancer(names).x, problems["cancer 30"].x)
    every = np.r_[digits.y, digits.y_test]
    np.testing.assert_array_equal(np.bincount(every), np.bincount(load_digits().target))
    assert jnp.issubdtype(digits.y.dtype, jnp.integer)


def test_digits_params_are_layers(problems):
    one, two = (
        jax.tree.map(jnp.shape, params) for params in (ef.digits(()).params, problems["digits"].params)
    )
    assert one == [{"W": (10, 64), "b": (10,)}]
    assert two == [{"W": (8, 64), "b": (8,)}, {"W": (10, 8), "b": (10,)}]


def test_losses_and_predictions_have_their_closed_forms(problems):
    theta = jnp.array([0.1, -0.4])
    for name, mean, loss in (
        ("linear", lambda z: z, lambda z, y: (y - z) ** 2 / 2),
        ("logistic", lambda z: 1 / (1 + np.exp(-z)), lambda z, y: np.log1p(np.exp(z)) - y * z),
    ):
        problem = problems[name]
        z, y = np.asarray(problem.x, float) @ np.asarray(theta, float), np.asarray(problem.y, float)
        losses = ef.per_example_losses(problem.loss_fn, theta, problem.x, problem.y)
        np.testing.assert_allclose(losses, loss(z, y), rtol=1e-5, atol=1e-6)  # float32
        predictions = jax.vmap(problem.predict_fn, (None, 0))(theta, problem.x)
        np.testing.assert_allclose(predictions, mean(z), rtol=1e-5, atol=1e-6)
    digits = problems["digits"]
    probabilities = jax.vmap(digits.predict_fn, in_axes=(None, 0))(digits.params, digits.x[:5])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    losses = ef.per_example_losses(digits.loss_fn, digits.params, digits.x[:5], digits.y[:5])
    np.testing.assert_allclose(losses, -np.log(probabilities[jnp.arange(5), digits.y[:5]]), rtol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "digits"])
def test_losses_stay_finite_far_out(problems, name):
    """At |z| ~ 1e4, where exp(z) overflows in float32 (and in float64)."""
    problem = problems[name]
    far = jax.tree.map(lambda leaf: 1e4 * (leaf + 1), problem.params)
    losses, G = (
        jax.jit(partial(call, problem.loss_fn))(far, problem.x[:50], problem.y[:50])
        for call in (ef.per_example_losses, ef.per_example_gradients)
    )
    assert 1e3 < float(losses.max()) < np.inf
    assert jnp.isfinite(G).all()


@pytest.mark.parametrize("name", ["linear", "digits"])
def test_descend_goes_down_the_gradient(problems, name):
    problem = problems[name]
    after = ef.descend(problem, steps=2, learning_rate=0.1)
    assert ef.mean_loss(after, after.params) < ef.mean_loss(problem, problem.params)
    expected, gradient = problem.params, jax.jit(jax.grad(lambda params: ef.mean_loss(problem, params)))
    for _ in range(2):
        expected = jax.tree.map(lambda leaf, g: leaf - 0.1 * g, expected, gradient(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.params, expected)
