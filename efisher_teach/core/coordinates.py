"""The same step in other coordinates: θ = φ(ψ), with the Jacobian J = ∂φ/∂ψ.

A gradient is pulled back, a step is pushed forward:

    G ↦ GJ        g ↦ Jᵀg        C ↦ JᵀCJ        Δθ ← JΔψ

so that -(JᵀCJ)⁻¹Jᵀg, taken in ψ, is -C⁻¹g in θ: the empirical-Fisher step does not depend on the coordinates. Three
leaks: φ is curved (the steps part as η²), damping εI is Euclidean in its own chart (εJᵀJ repairs that), and where C is
singular the two steps may differ by what changes no loss of the sample.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from efisher_teach import errors
from efisher_teach.core import solve
from efisher_teach.core.precision import dot


@jax.tree_util.register_static
class Coordinates(NamedTuple):
    """A chart: q numbers ψ that describe the p parameters θ; q > p where the description is redundant.

    Examples:
        >>> turned = ef.coordinates.Coordinates(
        ...     "mean and half difference",
        ...     lambda psi: jnp.array([psi[0] - psi[1], psi[0] + psi[1]]),
        ...     lambda theta: jnp.array([theta[0] + theta[1], theta[1] - theta[0]]) / 2,
        ... )
        >>> print(turned.inverse(jnp.array([1.0, 3.0])), turned.forward(jnp.array([2.0, 1.0])))
        [2. 1.] [1. 3.]
    """

    name: str
    forward: Callable
    """φ: ψ (q,) to θ (p,)."""
    inverse: Callable
    """θ (p,) to one of its ψ (q,)."""
    domain: str = "where its inverse is defined"
    """The θ that it can describe, in words."""


def elementwise(name: str, forward: Callable, inverse: Callable, domain: str = "") -> Coordinates:
    """Each parameter in a chart of its own: θⱼ = φ(ψⱼ), so J is diagonal.

    Args:
        name: What to call it.
        forward: φ, of an array, element by element.
        inverse: Its inverse.
        domain: Which θ it can describe, in words.

    Returns:
        `Coordinates`.

    Examples:
        >>> cube = ef.coordinates.elementwise("cube", lambda psi: psi**3, jnp.cbrt)
        >>> print(jacobian(cube, jnp.array([1.0, 2.0])))  # diag 3ψ²
        [[ 3.  0.]
         [ 0. 12.]]
    """
    return Coordinates(name, forward, inverse, domain or Coordinates._field_defaults["domain"])


def affine(A: Real[Array, "p p"], shift: Real[ArrayLike, "*p"] = 0.0) -> Coordinates:
    """Stretched, sheared and turned axes: θ = Aψ + b, so J = A everywhere and nothing leaks but ε.

    Args:
        A: An invertible matrix (p, p).
        shift: b, a number or (p,).

    Returns:
        `Coordinates`.

    Raises:
        ValueError: A is not square and finite, or not invertible.

    Examples:
        >>> sheared = ef.coordinates.affine(jnp.array([[2.0, 1.0], [0.0, 1.0]]), shift=3.0)
        >>> print(sheared.forward(jnp.array([1.0, 1.0])), sheared.inverse(jnp.array([6.0, 4.0])))
        [6. 4.] [1. 1.]
    """
    A, b = errors.as_float("A", A), errors.as_float("shift", shift)
    _require_invertible(A)
    p = len(A)
    if b.shape not in ((), (p,)):
        required = f"a number, or of shape ({p},) as A has {p} rows"
        errors.reject("shift", required, f"shape {b.shape}", "Ravel it.")
    errors.finite_rows("shift", jnp.atleast_1d(b), "Every entry is a number.")
    b = jnp.broadcast_to(b, (p,))
    return Coordinates("affine", lambda psi: dot(A, psi) + b, lambda theta: jnp.linalg.solve(A, theta - b))


identity = elementwise("identity", lambda psi: psi, lambda theta: theta)
exponential = elementwise("exponential", jnp.exp, jnp.log, "θ > 0, as θ = exp ψ")
square = elementwise("square", jnp.square, jnp.sqrt, "θ > 0, as θ = ψ²")
logit = elementwise("logit", jax.nn.sigmoid, jax.scipy.special.logit, "0 < θ < 1, as θ = 1/(1 + exp(-ψ))")
polar = Coordinates(
    "polar",
    lambda psi: psi[0] * jnp.array([jnp.cos(psi[1]), jnp.sin(psi[1])]),
    lambda theta: jnp.array([jnp.hypot(theta[0], theta[1]), jnp.arctan2(theta[1], theta[0])]),
    "two parameters, not both 0, as θ = r (cos φ, sin φ)",
)
weight_norm = Coordinates(
    "weight norm",
    lambda psi: psi[0] * psi[1:] / jnp.linalg.norm(psi[1:]),
    lambda theta: jnp.concatenate([jnp.linalg.norm(theta)[None], theta / jnp.linalg.norm(theta)]),
    "θ ≠ 0, as θ = s v/‖v‖",
)


def jacobian(coordinates: Coordinates, psi: Real[Array, " q"]) -> Float[Array, "p q"]:
    """J = ∂φ/∂ψ at ψ.

    Args:
        coordinates: The chart.
        psi: ψ (q,).

    Returns:
        J (p, q).

    Raises:
        ValueError: J is not finite at ψ.

    Examples:
        >>> psi = jnp.log(jnp.array([1.0, 2.0]))
        >>> print(jacobian(ef.coordinates.exponential, psi))  # θ = exp ψ, so J = diag θ
        [[1. 0.]
         [0. 2.]]
    """
    J = jax.jacfwd(coordinates.forward)(errors.as_float("psi", psi))
    if errors.is_concrete(J) and not jnp.isfinite(J).all():
        required = f"a regular point of the chart {coordinates.name!r}"
        errors.reject("psi", required, "a Jacobian that is not finite", "Choose another point.")
    return J


def pull_back(G: Float[Array, "n p"], J: Float[Array, "p q"]) -> Float[Array, "n q"]:
    """Per-example gradients in the other coordinates, by the chain rule: GJ.

    Args:
        G: Per-example gradients in θ (n, p).
        J: The Jacobian (p, q).

    Returns:
        Per-example gradients in ψ (n, q).

    Raises:
        ValueError: A bad G, or a J that does not fit it.

    Examples:
        >>> G, J = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])  # θⱼ = exp ψⱼ at θ = [1, 2]
        >>> print(ef.pull_back(G, J))
        [[1. 0.]
         [0. 4.]]
    """
    G, J = errors.gradients(G), errors.as_float("J", J)
    if J.ndim != 2 or J.shape[0] != G.shape[1]:
        action = "Use jacobian(coordinates, psi)."
        errors.reject("J", f"of shape ({G.shape[1]}, q), as G is {G.shape}", f"shape {J.shape}", action)
    return dot(G, J)


def push_forward(J: Float[Array, "p q"], delta: Float[Array, " q"]) -> Float[Array, " p"]:
    """A step in ψ, seen in θ, to first order: Δθ = JΔψ.

    Args:
        J: The Jacobian (p, q).
        delta: Δψ (q,).

    Returns:
        Δθ (p,).

    Raises:
        ValueError: J and delta do not fit.

    Examples:
        >>> G, J = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> there = ef.empirical_fisher_step(ef.pull_back(G, J), budget=0.01).delta
        >>> print(there, ef.push_forward(J, there))  # the second is the step taken in θ
        [-0.1   -0.025] [-0.1  -0.05]
    """
    J, delta = errors.as_float("J", J), errors.as_float("delta", delta)
    if J.ndim != 2:
        errors.reject("J", "2-D (p, q)", f"shape {J.shape}", "Use jacobian(coordinates, psi).")
    action = "Use a step that was computed from pull_back(G, J)."
    errors.shaped("delta", delta, J.shape[1:], f"as J is {J.shape}", action)
    return dot(J, delta)


def enter(coordinates: Coordinates, theta: Float[Array, " p"]) -> Float[Array, " q"]:
    """ψ of θ, once φ is known to lead back, with a Jacobian that can make every step of θ."""
    chart = f"the chart {coordinates.name!r} ({coordinates.domain})"
    try:
        psi = coordinates.inverse(theta)
        back, J = coordinates.forward(psi), jax.jacfwd(coordinates.forward)(psi)
    except (TypeError, ValueError, IndexError) as error:
        got = f"{theta.size} numbers, and {error}"
        errors.reject("params", f"what {chart} describes", got, "Choose another.")
    _require_inside(chart, theta, psi, back, J)
    return psi


def steps_in_units(
    factors: solve.Spectrum,
    eigenvalues: Float[Array, " r"],
    dampings: Float[Array, " m"],
    budget: Real[ArrayLike, ""],
) -> tuple[Float[Array, "m p"], Float[Array, "m n"], Float[Array, " m"], Float[Array, " m"]]:
    """The steps of cost c for many ε, of the same model in other units along the eigenvectors of C.

    To turn μ into μ' is to write θ = V diag √(μ'/μ) Vᵀψ: in ψ the eigenvalues of C are μ', and g is √μ'h along them. So
    the step in ψ is -η√μ'h/(μ' + ε), and each loss sees -ημ'h/(μ' + ε).

    Args:
        factors: The `spectrum` of G.
        eigenvalues: μ' (r,), 0 where μ is 0.
        dampings: ε ≥ 0, (m,).
        budget: c > 0.

    Returns:
        The steps in θ (m, p); what they predict for each loss (m, n); their lengths in ψ (m,); and their lengths where
        η is that of ε = 0 throughout (m,).

    Examples:
        >>> from efisher_teach.core.solve import spectrum
        >>> factors = spectrum(jnp.array([[1.0, 0.0], [0.0, 2.0]]))  # μ = 2 and ½
        >>> found = steps_in_units(factors, factors.eigenvalues, jnp.array([0.0, 0.5]), 0.01)
        >>> print(found[0])  # as of `damping_path`, in units as they are
        [[-0.1   -0.05 ]
         [-0.075 -0.06 ]]
    """
    old, V, U = factors
    h = jnp.where(old > 0, jnp.sum(U, axis=0) / jnp.sqrt(len(U)), 0)
    kept = solve.quotient(eigenvalues, eigenvalues + dampings[:, None]) * h
    rate, constant = (jnp.sqrt(budget / jnp.sum(each**2, axis=-1)) for each in (kept, h))
    length = jnp.linalg.norm(solve.quotient(kept, jnp.sqrt(eigenvalues)), axis=1)
    kept = rate[:, None] * kept
    delta = -dot(solve.quotient(kept, jnp.sqrt(old)), V.T)
    return delta, -jnp.sqrt(len(U)) * dot(kept, U.T), rate * length, constant * length


def _require_invertible(A: jax.Array) -> None:
    """A square matrix (p, p) whose smallest singular value can be told from 0."""
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
        errors.reject("A", "square (p, p)", f"shape {A.shape}", "It maps p numbers to the p parameters.")
    errors.finite_rows("A", A, "Every entry is a number.")
    if errors.is_concrete(A):
        singular = np.linalg.svd(np.asarray(A, float), compute_uv=False)
        if not singular[-1] > len(A) * float(jnp.finfo(A.dtype).eps) * singular[0]:
            got = f"singular values from {singular[0]:.3g} to {singular[-1]:.3g}"
            action = "Some step of the parameters could not be made in this chart."
            errors.reject("A", "invertible", got, action)


def _require_inside(chart: str, theta: jax.Array, psi: jax.Array, back: jax.Array, J: jax.Array) -> None:
    """A point that a chart can describe: there and back again, with a Jacobian of full row rank."""
    if back.shape != theta.shape:
        got, action = f"{theta.size} of them", "Choose a chart that fits."
        errors.reject("params", f"as many numbers as {chart} describes, {back.size}", got, action)
    if not errors.is_concrete(theta, psi, back, J):
        return
    eps, point = float(jnp.finfo(theta.dtype).eps), np.asarray(theta, float)
    got = np.array2string(point, precision=3)
    if not (np.isfinite(point).all() and np.isfinite(back).all()):
        errors.reject("params", f"inside {chart}", got, "Start elsewhere.")
    regular = bool(np.isfinite(psi).all() and np.isfinite(J).all())
    if regular:
        # What there and back may lose to rounding: digits of θ, and of ψ as far as θ depends on them.
        size = np.abs(point).max() + np.asarray(dot(jnp.abs(J), jnp.abs(psi)), float).max()
        if np.abs(point - back).max() > eps**0.5 * size:
            errors.reject("params", f"inside {chart}", got, "Start elsewhere.")
        singular = np.linalg.svd(np.asarray(J, float), compute_uv=False)
        regular = J.shape[0] <= J.shape[1] and singular[-1] > J.shape[0] * eps * singular[0]
    if not regular:
        got += ", where some step cannot be made in it"
        errors.reject("params", f"at a regular point of {chart}", got, "Start elsewhere.")
