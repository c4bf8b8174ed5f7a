"""The directions that people take in place of (A + εI)⁻¹g: a diagonal, a root, or nothing."""

from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from efisher_teach import errors
from efisher_teach.core.precision import dot, eigh
from efisher_teach.core.solve import same_sample, solve_symmetric

Form = Literal["full", "diagonal", "root", "diagonal root", "none"]


def precondition(
    A: Float[Array, "p p"], g: Float[Array, " p"], damping: Real[ArrayLike, ""] = 0.0, form: Form = "full"
) -> Float[Array, " p"]:
    """The directions that people take in place of (A + εI)⁻¹g.

        "full"            (A + εI)⁻¹g
        "diagonal"        (diag A + εI)⁻¹g, which forgets how parameters act together
        "root"            (A + εI)^(-1/2) g, as in full AdaGrad
        "diagonal root"   (diag A + εI)^(-1/2) g, as in Adam and RMSProp
        "none"            g, gradient descent

    Args:
        A: A symmetric positive semi-definite matrix (p, p); "full" takes an indefinite one too.
        g: A gradient (p,).
        damping: ε ≥ 0; 0 is the pseudo-inverse, and then g must lie in the range of what is inverted.
        form: One of the names above.

    Returns:
        u (p,). A step is -ηu.

    Raises:
        ValueError: As in `solve_primal`; an unknown form; a root of an indefinite matrix.

    Examples:
        >>> from efisher_teach.core.precondition import precondition
        >>> A, g = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 0.0])
        >>> for form in ("full", "diagonal", "none"):
        ...     print(form, precondition(A, g, form=form))
        full [ 2. -1.]
        diagonal [1.5 0. ]
        none [3. 0.]
    """
    A, g = errors.linear_system("A", A, g)
    damping = errors.one_damping(damping, A.dtype)
    errors.one_of("form", form, get_args(Form))
    if form == "full":
        return solve_symmetric("A", A, g, damping)
    if form == "none":
        return g
    values, V = eigh(A) if form == "root" else (jnp.diag(A), jnp.eye(A.shape[0], dtype=A.dtype))
    cut = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    semi_definite("A", values, cut)
    kept = ((values > cut) | (damping > cut)) & (values + damping > 0)
    shifted = jnp.where(kept, values + damping, 1)
    same_sample("A", g, dot(V, jnp.where(kept, 0, dot(V.T, g))))
    inverse = jnp.where(kept, 1 / (shifted if form == "diagonal" else jnp.sqrt(shifted)), 0)
    u = dot(V, inverse * dot(V.T, g)) if form == "root" else inverse * g
    errors.finite_result("A", u)
    return u


def semi_definite(argument: str, eigenvalues: Any, cut: Any) -> None:
    """No eigenvalue (or diagonal entry) below rounding."""
    if errors.is_concrete(eigenvalues) and float(eigenvalues.min()) < -float(cut):
        got = f"{float(eigenvalues.min()):.3g} among its eigenvalues or on its diagonal"
        action = "A Hessian may be neither: use the form 'full'."
        errors.reject(argument, "positive semi-definite here", got, action)
