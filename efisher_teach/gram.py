"""The Gram matrix K: how much each pair of examples pulls the same way."""

from jaxtyping import Array, Float

from efisher_teach import _checks
from efisher_teach._precision import dot


def gram(G: Float[Array, "n p"]) -> Float[Array, "n n"]:
    """Inner products of the per-example gradients: K = GGᵀ/n.

    K and C = GᵀG/n have the same non-zero eigenvalues, so the same ε damps both.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        K (n, n), symmetric, positive semi-definite.

    Raises:
        ValueError: G is not 2-D, is empty, or not finite; its squares overflow.
    """
    G = _checks.gradients(G)
    K = dot(G, G.T) / G.shape[0]
    _checks.finite_result("G", K)
    return K
