"""What people have for arrays: taken where nothing is lost, refused in few words where something would be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import bare
from scipy import sparse

import efisher_teach as ef

X, Y = np.arange(6.0).reshape(3, 2) / 4, np.array([1.0, 0.0, 2.0])
THETA = jnp.array([0.5, -1.0])


def loss_fn(theta, x, y):
    return (x @ theta - y) ** 2 / 2


class Frame:
    """Something that NumPy can read, and that has a shape, as a DataFrame or a tensor has."""

    def __init__(self, array):
        self.shape, self.array = array.shape, array

    def __array__(self, dtype=None, copy=None):
        return self.array


TAKEN = {
    "lists": (X.tolist(), Y.tolist()),
    "data frames": (Frame(X), Frame(Y)),
    "big-endian": (X.astype(">f8"), Y.astype(">i4")),
    "objects": (X.astype(object), Y.astype(object)),
    "long doubles": (X.astype(np.longdouble), Y),
    "masked, nothing masked": (np.ma.array(X), np.ma.array(Y, mask=False)),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_taken(kind):
    x, y = TAKEN[kind]
    expected = ef.per_example_gradients(loss_fn, THETA, jnp.asarray(X), jnp.asarray(Y))
    np.testing.assert_allclose(bare(ef.per_example_gradients)(loss_fn, THETA, x, y), expected)
    np.testing.assert_allclose(bare(ef.loss_gram)(loss_fn, THETA, x, y).K, ef.gram(expected), rtol=1e-6)
    moved, _ = ef.make_update(loss_fn, damping=0.1, budget=0.01)(THETA, x, y)
    assert moved.shape == (2,)
    assert ef.fit(
        ef.make_update(loss_fn, damping=0.1, budget=0.01), THETA, x, y, steps=2, progress=False
    ).reports.loss[0]
    np.testing.assert_allclose(
        bare(ef.empirical_fisher)(np.asarray(expected).tolist()), ef.empirical_fisher(expected)
    )


@pytest.mark.parametrize(
    "value", [sparse.eye(3), [["word"] * 5] * 20_000, np.array(["2026-01-01"], "datetime64[D]")]
)
def test_messages_are_short(value):
    with pytest.raises(ValueError, match="`x` must be numbers in an array") as caught:
        bare(ef.per_example_losses)(loss_fn, THETA, value, Y)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_in_every_dense_function(kind):
    G = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    half = G.astype(kind)
    for function in (
        lambda G: ef.empirical_fisher_step(G, damping=0.1, budget=0.01).delta,
        lambda G: ef.damping_path(G, jnp.array([0.0, 1.0]), 0.01).delta,
        lambda G: ef.two_budget_step(G, 0.01, 0.01).delta,
        lambda G: ef.targeted_step(G, jnp.array([0.1, 0.2, 0.3])).delta,
        lambda G: ef.solve_primal(ef.empirical_fisher(G), ef.mean_gradient(G), 0.1),
        lambda G: ef.solve_dual(G, 0.1),
        lambda G: ef.solve_gram(ef.gram(G), 0.1),
        lambda G: ef.generalised_eigenvalues(ef.empirical_fisher(G), jnp.eye(2, dtype=G.dtype)),
        lambda G: ef.scale_by_empirical_fisher(0.1).update(G, ef.scale_by_empirical_fisher(0.1).init(G[0]))[
            0
        ],
    ):
        found = function(half)
        assert found.dtype == kind
        np.testing.assert_allclose(np.asarray(found, float), function(G), rtol=0.1, atol=0.02)


def test_a_mean_gradient_is_not_taken_for_examples():
    transformation = ef.scale_by_empirical_fisher(0.1)
    for wrong in (jnp.ones((2, 3)), jnp.ones((0, 2, 3)), jnp.ones((4, 3, 2))):
        with pytest.raises(ValueError, match="`updates` must be per-example gradients"):
            transformation.update(
                wrong, transformation.init(jnp.ones((2, 3)) if wrong.ndim == 2 else jnp.ones((2, 4)))
            )


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
        G = ef.per_example_gradients(loss_fn, THETA, x, y)
        assert ef.empirical_fisher_step(G, damping=0.1, budget=0.01).residual < 1e-5
        assert ef.make_update(loss_fn, damping=0.1, budget=0.01)(THETA, x, y)[1].residual < 1e-5


def test_a_constant_is_checked_inside_jit():
    """A curvature that a jitted function closes over is known, though JAX traces what is made of it."""
    G = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    step = lambda G: ef.step_in(ef.coordinates.square, 1 - THETA, G, budget=0.1, curvature=jnp.eye(2)).delta  # noqa: E731
    np.testing.assert_allclose(jax.jit(step)(G), step(G), rtol=1e-6)
