"""The problems: what they hold, where it comes from, and that their losses behave."""

import socket
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import oracles
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
    monkeypatch.delattr(socket, "socket")
    monkeypatch.delattr(socket, "create_connection")
    problem, (make, n, held_out, features) = problems[name], PROBLEMS[name]
    assert (problem.x.shape, problem.y.shape) == ((n, features), (n,))
    assert (problem.x_test.shape, problem.y_test.shape) == ((held_out, features), (held_out,))
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
    names = tuple(map(str, load_breast_cancer().feature_names))
    np.testing.assert_array_equal(ef.breast_cancer(names).x, problems["cancer 30"].x)
    every = np.r_[digits.y, digits.y_test]
    np.testing.assert_array_equal(np.bincount(every), np.bincount(load_digits().target))
    assert jnp.issubdtype(digits.y.dtype, jnp.integer)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 5)])
def test_digits_params_are_layers(hidden):
    """Inside and out: 64 pixels first, 10 classes last."""
    layers = [{"W": (b, a), "b": (b,)} for a, b in pairwise((64, *hidden, 10))]
    assert jax.tree.map(jnp.shape, ef.digits(hidden).params) == layers


@pytest.mark.parametrize("name", ["linear", "logistic", "digits"])
def test_loss_and_prediction_are_those_of_the_likelihood_and_descend_goes_down(problems, name):
    """The likelihood itself is tested in test_matrices.py, far out too."""
    problem, close = problems[name], {"rtol": 1e-5, "atol": 1e-6}
    after, gradient = (
        ef.descend(problem, steps=2, learning_rate=0.1),
        jax.jit(jax.grad(partial(ef.mean_loss, problem))),
    )
    params, x, y = after.params, problem.x[:5], problem.y[:5]
    assert ef.mean_loss(problem, params) < ef.mean_loss(problem, problem.params)
    expected = problem.params
    for _ in range(2):
        expected = jax.tree.map(lambda leaf, g: leaf - 0.1 * g, expected, gradient(expected))
    np.testing.assert_allclose(oracles.flat(params), oracles.flat(expected), **close)
    for xi, yi in zip(x, y, strict=True):
        z = problem.output_fn(params, xi)
        assert name == "digits" or float(z) == pytest.approx(float(xi @ params), rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(problem.loss_fn(params, xi, yi), problem.likelihood.loss(z, yi), **close)
        np.testing.assert_allclose(problem.predict_fn(params, xi), problem.likelihood.mean(z), **close)
