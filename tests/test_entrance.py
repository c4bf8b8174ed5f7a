"""Arrays as people have them are taken; every dense function keeps the precision of the gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import bare
from oracles import line as loss_fn

import efisher_teach as ef

X, Y = np.arange(6.0).reshape(3, 2) / 4, np.array([1.0, 0.0, 2.0])
THETA = jnp.array([0.5, -1.0])


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
UPDATE = ef.make_update(loss_fn, damping=0.1, budget=0.01)


@pytest.mark.parametrize("kind", TAKEN)
def test_taken(kind):
    data, known = TAKEN[kind], (loss_fn, THETA, jnp.asarray(X), jnp.asarray(Y))
    G = ef.per_example_gradients(*known)
    np.testing.assert_allclose(bare(ef.per_example_gradients)(loss_fn, THETA, *data), G)
    np.testing.assert_allclose(bare(ef.loss_gram)(loss_fn, THETA, *data).K, ef.gram(G), rtol=1e-6)
    expected, _ = UPDATE(*known[1:])
    np.testing.assert_allclose(UPDATE(THETA, *data)[0], expected, rtol=1e-6)
    run = ef.fit(UPDATE, THETA, *data, steps=1, progress=False)
    np.testing.assert_allclose(run.params, expected, rtol=1e-6)


def test_whole_numbers_are_taken_as_real():
    whole = EXAMPLE.astype(int)
    np.testing.assert_allclose(bare(ef.empirical_fisher)(whole.tolist()), ef.empirical_fisher(EXAMPLE))
    assert bare(ef.mean_gradient)(whole).dtype == jnp.float32


def direction(G, damping):
    transformation = ef.scale_by_empirical_fisher(damping)
    return transformation.update(G, transformation.init(G[0]))[0]


EXAMPLE = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
DENSE = {  # each of G and of a number, which is ε, c, r and t
    "step": lambda G, one: ef.empirical_fisher_step(G, damping=one, budget=one),
    "path": lambda G, one: ef.damping_path(G, jnp.stack([0 * jnp.asarray(one), one]), one),
    "two budgets": lambda G, one: ef.two_budget_step(G, one, one),
    "targeted": lambda G, one: ef.targeted_step(G, jnp.array([0.1, 0.2, 0.3]), damping=one, budget=one),
    "primal": lambda G, one: ef.solve_primal(ef.empirical_fisher(G), ef.mean_gradient(G), one),
    "dual": ef.solve_dual,
    "gram": lambda G, one: ef.solve_gram(ef.gram(G), one),
    "ratios": lambda G, one: ef.generalised_eigenvalues(ef.empirical_fisher(G), jnp.eye(2, dtype=G.dtype)),
    "direction": direction,
    "pulled": lambda G, one: ef.pull_back(G, jnp.eye(2, dtype=G.dtype)),
    "pushed": lambda G, one: ef.push_forward(G, G[0]),
    "in a chart": lambda G, one: ef.step_in(ef.coordinates.square, G[0] + 1, G, damping=one, budget=one),
}


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", DENSE)
def test_precision_is_that_of_the_gradients(name, kind, x64):
    """Also where 64 bits are on, and the other numbers are whole, of NumPy, or arrays of float64."""
    expected = DENSE[name](EXAMPLE, 1.0)
    for one in (1, np.float64(1), jnp.asarray(1.0)):
        found = DENSE[name](EXAMPLE.astype(kind), one)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} <= {jnp.dtype(kind), jnp.dtype(bool)}
    for value, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(value, float), right, rtol=0.1, atol=0.02)


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
        G = ef.per_example_gradients(loss_fn, THETA, x, y)
        assert ef.empirical_fisher_step(G, damping=0.1, budget=0.01).residual < 1e-5
        assert UPDATE(THETA, x, y)[1].residual < 1e-5


def test_a_constant_is_checked_inside_jit():
    """A curvature that a jitted function closes over is known, though JAX traces what is made of it."""
    step = partial(ef.step_in, ef.coordinates.square, 1 - THETA, budget=0.1, curvature=jnp.eye(2))
    np.testing.assert_allclose(jax.jit(step)(EXAMPLE).delta, step(EXAMPLE).delta, rtol=1e-6)
