"""The definitions, in NumPy and float64, for the tests to compare with; and the inputs to try."""

import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

_rng = np.random.default_rng(7)
_wide, _tall = _rng.normal(size=(4, 6)), _rng.normal(size=(6, 4))

# Few shapes, so that little is compiled. "deficient" has whole numbers: its rank is 2 in any precision.
GRID = {
    "wide": _wide,
    "tall": _tall,
    "deficient": np.outer([1, 2, 0, 1, -1, 3], [1, 0, 2, -1]) + np.outer([0, 1, 1, -2, 1, 1], [2, 1, 0, 1.0]),
    "zero row": np.vstack([np.zeros(4), _tall[1:]]),
    "duplicated": np.vstack([_wide[:1], _wide[:1], _wide[2:]]),
    "one example": _wide[:1, :4],
    "one parameter": _tall[:, :1],
}
_scales = np.array(
    [[3000.0, 1999.0], [1.0, 0.0], [512.0, 341.0]]
)  # two directions, 1000 times apart and more
CANCELLING = {  # g is 0 exactly
    "two rows": np.array([[1.0, 2.0], [-1.0, -2.0]] * 3),
    "nothing": np.zeros((6, 2)),
    "two scales": np.vstack([_scales, -_scales]),
}
DAMPINGS = (0.0, 1e-6, 1e-2, 1.0, 1e3)


def bare(function):
    """The function without jaxtyping's hook, which would reject bad input before the library can."""
    return inspect.unwrap(function)


def flat(tree):
    """Its numbers one after the other, in float64."""
    return np.asarray(ravel_pytree(jax.device_get(tree))[0], float)


def line(theta, x, y):
    """The loss of least squares."""
    return (x @ theta - y) ** 2 / 2


def singly(loss_fn, params, *data, **options):
    """The losses and G, one call for every example; inputs and labels may be pytrees."""
    both, n = jax.jit(jax.value_and_grad(loss_fn), **options), len(jax.tree.leaves(data)[0])
    found = [both(params, *jax.tree.map(lambda leaf, i=i: leaf[i], data)) for i in range(n)]
    return np.array([loss for loss, _ in found]), np.array([ravel_pytree(g)[0] for _, g in found])


def mean_gradient(G):
    """The mean row g, row by row."""
    return sum(np.asarray(G, float)) / len(G)


def empirical_fisher(G):
    """C: the mean of gᵢgᵢᵀ, row by row."""
    return sum(np.outer(row, row) for row in np.asarray(G, float)) / len(G)


def gram(G):
    """K: gᵢᵀgⱼ/n, number by number."""
    G = np.asarray(G, float)
    return np.array([[one @ other for other in G] for one in G]) / len(G)


def direction(G, damping, target=1.0):
    """u as a regression: "gᵢᵀu = tᵢ for all i", with √(nε)u = 0 below; at ε = 0 the shortest u."""
    n, p = np.shape(G)
    system = np.vstack([np.asarray(G, float), np.sqrt(n * damping) * np.eye(p)])
    # rcond: far below any singular value of the grid that is not zero, far above rounding in float64.
    return np.linalg.lstsq(system, np.r_[target * np.ones(n), np.zeros(p)], rcond=1e-12)[0]


FORMS = ("full", "diagonal", "root", "diagonal root", "none")


def preconditioned(A, g, form, cut=1e-12):
    """A⁻¹g in each form, without the eigenvalues below the cut."""
    if form == "none":
        return g
    values, V = np.linalg.eigh(np.diag(np.diag(A)) if "diagonal" in form else A)
    kept = values > cut * values[-1]
    return V @ np.where(kept, V.T @ g / np.where(kept, values, 1) ** (0.5 if "root" in form else 1), 0)


def agreement(G):
    """ρ = gᵀC⁺g by the pseudo-inverse."""
    g = mean_gradient(G)
    return g @ np.linalg.pinv(empirical_fisher(G), rcond=1e-12, hermitian=True) @ g


def eigenvalues(G):
    """The non-zero eigenvalues of C, descending."""
    values = np.linalg.eigvalsh(empirical_fisher(G))[::-1]
    return values[values > 1e-12 * values[0]]


def jacobian(forward, psi):
    """J by complex steps: exact to rounding."""
    return np.stack([forward(psi + 1e-30j * e).imag / 1e-30 for e in np.eye(len(psi))], axis=1)


CHARTS = {  # θ of ψ, also of complex numbers
    "identity": lambda psi: psi,
    "exponential": np.exp,
    "square": np.square,
    "logit": lambda psi: 1 / (1 + np.exp(-psi)),
    "polar": lambda psi: psi[0] * np.array([np.cos(psi[1]), np.sin(psi[1])]),
}


def case(name, damping, dtype):
    """Gradients of the grid and a damping, with all that follows from them by its definition, in float64.

    `inverse` is (K + εI)⁻¹, at ε = 0 the pseudo-inverse; `rounding` is max(n, p) roundings.
    """
    G = jnp.asarray(GRID[name], dtype)
    C, K = empirical_fisher(G), gram(G)
    inverse = np.linalg.pinv(K + damping * np.eye(len(K)), rcond=1e-12, hermitian=True)
    known = {"G": G, "damping": damping, "g": mean_gradient(G), "C": C, "K": K, "inverse": inverse}
    known |= {"u": direction(G, damping), "eigenvalues": eigenvalues(G)}
    return SimpleNamespace(**known, rounding=max(G.shape) * unit(dtype))


def condition(case, size=0):
    """By how much rounding is enlarged in u: (λmax + ε)/(λmin + ε).

    λmin is the smallest eigenvalue that is not zero, except where C + εI or K + εI, of this size, owes its inverse to ε
    alone: rounding leaves the range of C or K, and is divided by ε.
    """
    least = 0 if case.damping > 0 and len(case.eigenvalues) < size else case.eigenvalues[-1]
    return (case.eigenvalues[0] + case.damping) / (least + case.damping)


def unit(dtype):
    """The rounding unit of a dtype."""
    return float(jnp.finfo(dtype).eps)


def relative(value, expected):
    """‖value - expected‖/‖expected‖, in float64."""
    value, expected = np.asarray(value, float), np.asarray(expected, float)
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


def check_derivative(function, *arguments):
    """Forward and reverse mode against central differences along random directions, in float64.

    With h = 1e-5 the difference is wrong by h²f''' ~ 1e-10 and by eps·f/h ~ 1e-11 times the condition; 1e-6 leaves
    room for both, and a wrong formula is wrong by order 1.
    """
    assert arguments[0].dtype == jnp.float64
    check_grads(function, arguments, order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6, eps=1e-5)
