"""The empirical Fisher C: what a step costs, as a matrix."""

from jaxtyping import Array, Float

from efisher_teach import _checks
from efisher_teach._precision import dot


def empirical_fisher(G: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """The empirical Fisher, the uncentred covariance of the per-example gradients: C = GᵀG/n.

    ΔᵀCΔ is the mean squared first-order change of the losses under a step Δ. It is neither the Fisher
    (which samples the labels from the model) nor ggᵀ (the square of the mean).

    Args:
        G: Per-example gradients (n, p).

    Returns:
        C (p, p), symmetric, positive semi-definite, of rank at most min(n, p).

    Raises:
        ValueError: G is not 2-D, is empty, or has rows that are not finite.

    Reference:
        F. Kunstner, L. Balles, P. Hennig, "Limitations of the empirical Fisher approximation for natural
        gradient descent", NeurIPS 2019.
    """
    G = _checks.gradients(G)
    return dot(G.T, G) / G.shape[0]
