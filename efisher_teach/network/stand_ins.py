"""The Fisher of a small classifier, and what stands in for it: written down, to compare the steps that they make.

    fisher            E_x Σₖ q(k|x) ∇ℓₖ∇ℓₖᵀ       every label by its probability: k backward passes
    labels_m          E_x mean ∇ℓ∇ℓᵀ              of m labels, drawn from the model: a pass each
    empirical         E[∇ℓ ∇ℓᵀ]                   the labels of the data: no pass but that of g
    weighted          E[w ∇ℓ ∇ℓᵀ]                 the same, with w = q/(1 - q) for the probability q of the label
    kfac              E[δδᵀ] ⊗ E[[a; 1][a; 1]ᵀ]   a block for each layer, by one drawn label
    kfac_empirical                                the same, by the labels of the data

The gradient of a dense layer z = Wa + b is δ[a; 1]ᵀ, δ = ∂ℓ/∂z: K-FAC takes the product of two means for the mean of
products. That is exact if errors and inputs are independent.
"""

from itertools import accumulate, pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_jacobians, per_example_losses
from efisher_teach.core.likelihoods import categorical
from efisher_teach.core.precision import dot, einsum, solve
from efisher_teach.core.problems import Problem


def require_dense_layers(problem: Problem, *, classes: int, most: int) -> None:
    """Reject a problem that `stand_ins` cannot write down: no dense layers, other classes, too many parameters."""
    layers = problem.params if isinstance(problem.params, list) else [{}]
    dense = all({*layer} == {"W", "b"} for layer in layers)
    if problem.likelihood is not categorical or not dense or len(layers[-1]["b"]) != classes:
        got, action = f"params {jax.tree.structure(problem.params)}", "E.g. digits(hidden=(6,), side=4)."
        errors.reject("problem", f"dense layers with W and b, for {classes} classes", got, action)
    if (p := ravel_pytree(layers)[0].size) > most:
        action = "Here F is written down: take fewer units, or digits(side=4)."
        errors.reject("problem", f"one with at most {most} parameters", f"{p}", action)


def stand_ins(
    problem: Problem,
    params: PyTree,
    labels: Int[Array, "draws n most"],
    *,
    batches: tuple[int, ...],
    counts: tuple[int, ...],
) -> tuple[Float[Array, "batches p"], dict[str, Float[Array, "batches _ p p"]]]:
    """The gradient of a classifier of dense layers {"W": (b, a), "b": (b,)}, and each matrix by its name.

    `labels` are classes drawn from the model; `batches` are numbers of examples, all multiples of the first, and
    `counts` numbers m of labels, both ascending. A matrix is (batches, draws, p, p) if labels are drawn for it, else
    (batches, 1, p, p).

    Examples:
        >>> from efisher_teach.network.stand_ins import stand_ins
        >>> toy = ef.digits(hidden=(), side=4)
        >>> labels = jnp.zeros((3, 20, 1), int)  # three draws of a label
        >>> g, matrices = stand_ins(toy, toy.params, labels, batches=(10, 20), counts=(1,))
        >>> print(g.shape, {name: A.shape[1] for name, A in matrices.items()})
        (2, 170) {'fisher': 1, 'empirical': 1, 'weighted': 1, 'kfac_empirical': 1, 'kfac': 3, 'labels_1': 3}
    """
    x, y = problem.x[: batches[-1]], problem.y[: batches[-1]]
    output_fn: Any = problem.output_fn
    z, here = jax.vmap(lambda x: output_fn(params, x))(x), jnp.arange(batches[-1])
    chances, J = jax.nn.softmax(z), per_example_jacobians(output_fn, params, x)
    A = dot(chances[:, None] - jnp.eye(z.shape[1], dtype=z.dtype), J)  # ∇ℓₖ of every label k, (n, k, p)
    odds = jnp.expm1(per_example_losses(problem.loss_fn, params, x, y))  # 1/w = (1 - q)/q, for q = exp(-ℓ)
    G, ends = A[here, y], np.arange(0, batches[-1], batches[0])
    weights = jnp.asarray([(ends < batch) / batch for batch in batches], z.dtype)  # (batches, parts)
    layers = [_layer_of(layer) for layer in jax.vmap(jax.vmap(ravel_pytree(params)[1]))(A)]

    def mean(rows):
        """E[Σ rows rowsᵀ] of each batch, for rows (n, m, p), from parts that the batches share."""
        parts = rows.reshape(weights.shape[1], -1, rows.shape[-1])
        return einsum("bk,kij->bij", weights, dot(parts.mT, parts))

    def kronecker(label):
        means = ((mean(errors[here, label][:, None]), mean(inputs[:, None])) for errors, inputs in layers)
        return jax.vmap(block_diag)(*(jax.vmap(kronecker_block)(S, A) for S, A in means))

    def sample(label):
        rows = A[here[:, None], label]
        sums = accumulate(mean(rows[:, a:b]) for a, b in pairwise((0, *counts)))
        return jnp.stack([total / count for total, count in zip(sums, counts, strict=True)])

    matrices = {
        "fisher": mean(jnp.sqrt(chances)[..., None] * A),
        "empirical": mean(G[:, None]),
        "weighted": mean((G / jnp.sqrt(jnp.maximum(odds, 1e-6))[:, None])[:, None]),
        "kfac_empirical": kronecker(y),
    }
    matrices = {name: matrix[:, None] for name, matrix in matrices.items()}
    factored, sampled = lax.map(lambda label: (kronecker(label[:, 0]), sample(label)), labels)
    matrices["kfac"] = jnp.moveaxis(factored, 0, 1)
    matrices |= {f"labels_{count}": jnp.moveaxis(sampled[:, i], 0, 1) for i, count in enumerate(counts)}
    return dot(weights, jnp.sum(G.reshape(weights.shape[1], -1, G.shape[1]), axis=1)), matrices


def _layer_of(gradients):
    """Errors (n, k, b) and inputs (n, a + 1) of a layer, from its gradients by all labels: δ for b, and δaᵀ for W."""
    errors = gradients["b"]
    squares = jnp.sum(errors**2, axis=(1, 2))[:, None]
    inputs = einsum("nkba,nkb->na", gradients["W"], errors) / jnp.where(squares > 0, squares, 1)
    return errors, jnp.concatenate([inputs, jnp.ones_like(squares)], axis=1)


def kronecker_block(S: Float[Array, "b b"], A: Float[Array, "a1 a1"]) -> Float[Array, "m m"]:
    """The block S ⊗ A of a layer, S = E[δδᵀ], A = E[[a; 1][a; 1]ᵀ], in the order of W (b, a) and then b: m = b(a + 1).

    Examples:
        >>> from efisher_teach.network.stand_ins import kronecker_block
        >>> print(kronecker_block(jnp.array([[2.0]]), jnp.array([[9.0, 3.0], [3.0, 1.0]])))  # δ² = 2, a = 3
        [[18.  6.]
         [ 6.  2.]]
    """
    places = np.arange(len(S) * len(A)).reshape(len(S), len(A))
    order = np.r_[places[:, :-1].ravel(), places[:, -1]]
    return jnp.kron(S, A)[order][:, order]


def directions(
    g: Float[Array, " p"], matrices: dict[str, Float[Array, "_ p p"]], damping: Real[ArrayLike, ""]
) -> dict[str, Float[Array, "_ p"]]:
    """The stand-ins for F⁻¹g: (A + εI)⁻¹g for every matrix, also diagonal, and by a root, for one batch.

    They are solved one after the other: that takes the memory of one, and calls that factor many matrices each, side by
    side in a compiled function, can wait for each other for ever (jaxlib 0.10.2, two cores). ε > 0 counts in mean
    eigenvalues, tr A/p, of the matrix A that it is added to; "best" is the direction of the Fisher with hardly any
    damping, ε = 10⁻⁴.

    Examples:
        >>> from efisher_teach.network.stand_ins import directions
        >>> A = jnp.array([[2.0, 0.0], [0.0, 4.0]])
        >>> found = directions(jnp.array([3.0, 5.0]), {"fisher": A[None], "empirical": A[None]}, 1.0)
        >>> print(found["fisher"], found["descent"])  # the mean eigenvalue is 3
        [[0.6   0.714]] [[3. 5.]]
    """
    p, named = g.size, matrices | {"best": matrices["fisher"]}
    stack = jnp.concatenate([*named.values()])
    relative = jnp.where(np.arange(len(stack)) < len(stack) - 1, damping, 1e-4)
    shift = (relative * jnp.trace(stack, axis1=1, axis2=2) / p)[:, None]
    ends = np.cumsum([len(matrix) for matrix in named.values()])[:-1]

    def by_name(rows):
        return dict(zip(named, jnp.split(rows, ends), strict=True))

    diagonal = by_name(jnp.diagonal(stack, axis1=1, axis2=2) + shift)
    solved = lax.map(lambda one: solve(one[0] + one[1] * jnp.eye(p, dtype=g.dtype), g), (stack, shift))
    return by_name(solved) | {
        "diag_fisher": g / diagonal["fisher"],
        "diag_empirical": g / diagonal["empirical"],
        "root": g / jnp.sqrt(diagonal["empirical"]),
        "descent": g[None],
    }


def judge(
    g: Float[Array, " p"], F: Float[Array, "p p"], found: dict[str, Float[Array, "_ p"]]
) -> dict[str, Float[Array, " names"]]:
    """The decrease of each direction at equal KL divergence, gᵀu/√(uᵀFu), in parts of the best.

    Args:
        g: The gradient.
        F: The Fisher.
        found: The `directions` u, some of them for several draws of labels.

    Returns:
        One number a name, in their order: "share", the mean worth of its draws, as "low" and "high" the least and the
        most, and "cosine", the mean cosine with the direction of the Fisher.

    Examples:
        >>> from efisher_teach.network.stand_ins import judge
        >>> g, F = jnp.array([3.0, 4.0]), jnp.diag(jnp.array([1.0, 4.0]))
        >>> natural = jnp.array([[3.0, 1.0]])  # F⁻¹g
        >>> print(judge(g, F, {"best": natural, "fisher": natural, "descent": g[None]})["share"])  # 25/√(73 · 13)
        [1.    1.    0.812]
    """
    U, names = jnp.concatenate([*found.values()]), [*found]
    place = np.repeat(np.arange(len(names)), [len(u) for u in found.values()])
    its = place == np.arange(len(names))[:, None]  # the directions of every name
    worth = dot(U, g) / jnp.sqrt(jnp.sum(dot(U, F) * U, axis=-1))
    worth /= worth[place == names.index("best")]
    natural = found["fisher"][0]
    turn = dot(U, natural) / jnp.linalg.norm(U, axis=-1) / jnp.linalg.norm(natural)
    average = jnp.asarray(its / its.sum(axis=1, keepdims=True), U.dtype)
    low = jnp.min(jnp.where(its, worth, jnp.inf), axis=1)
    high = jnp.max(jnp.where(its, worth, -jnp.inf), axis=1)
    return {"share": dot(average, worth), "cosine": dot(average, turn), "low": low, "high": high}
