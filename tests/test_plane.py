"""The geometry that scenes share, each by what it means."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import efisher_teach as ef
from efisher_teach.figures import plane


def test_each_unit_vector_has_length_one():
    v = jnp.array([[[3.0, 4.0], [0.0, 0.0]], [[-2.0, 0.0], [1e-8, 1e-8]]])
    np.testing.assert_allclose(np.linalg.norm(plane.unit(v), axis=-1), [[1, 0], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(plane.unit(v)[0, 0], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("reach", [(4.0, 1.0), (1.0, 4.0), (2.0, 2.0)])
def test_a_view_has_room_for_both_directions_and_one_scale(reach):
    half = plane.fit(jnp.array(reach), 1.5, room=1.1)
    assert half[0] / half[1] == pytest.approx(1.5)
    assert np.max(np.array(reach) / half) == pytest.approx(1 / 1.1)


def test_the_points_of_an_ellipse_cost_one_and_a_needle_is_cut():
    G, basis = jnp.array([[1.0, 0.0, 2.0], [2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), jnp.eye(3)[:, :2]
    tips = plane.ellipse(G, basis, 9) @ basis.T
    costs = np.einsum("ij,jk,ik->i", tips, oracles.empirical_fisher(G), tips)
    np.testing.assert_allclose(costs, 1, rtol=1e-5)
    needle = plane.ellipse(jnp.array([[1.0, 0.0], [3.0, 0.0]]), jnp.eye(2), 9, thinnest=0.01)
    assert np.abs(needle).max(axis=0) == pytest.approx([5**-0.5, 10 * 5**-0.5], rel=1e-5)


def test_points_beyond_the_view_are_drawn_nearer():
    near = plane.no_farther(jnp.array([[3.0, 4.0], [30.0, 40.0]]), 10.0)
    np.testing.assert_allclose(near, [[3, 4], [6, 8]], rtol=1e-6)
    at_the_edge = plane.inside(jnp.array([[3.0, -1.0], [30.0, -10.0], [-2.0, 8.0]]), jnp.array([6.0, 4.0]))
    np.testing.assert_allclose(at_the_edge, [[3, -1], [6, -2], [-1, 4]], rtol=1e-6)


def test_where_two_directions_are_one_the_plane_takes_the_next():
    along, other = jnp.array([3.0, 4.0, 0.0]), jnp.array([1.0, 0.0, 2.0])
    basis = plane.plane_of(along, -2 * along, other)
    np.testing.assert_allclose(basis[:, 0], along / 5, rtol=1e-6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(basis @ (basis.T @ other), other, atol=1e-6)


def test_a_change_that_overflows_is_a_million_and_one_that_is_undefined_is_no_number():
    x = jnp.array([1.0, -1.0, -2.0])  # log 2, log 0, and the logarithm of -1
    problem = ef.linear_regression()._replace(params=jnp.zeros(1), x=x, y=x)
    problem = problem._replace(loss_fn=lambda params, x, y: jnp.log(1 + params[0] * x))
    np.testing.assert_allclose(plane.changes(problem, jnp.ones(1)), [np.log(2), -1e6, np.nan], rtol=1e-6)
