"""Problems: a loss for one example, its parameters, and data. Toys with closed forms, and real data.

The real data are bundled with scikit-learn: nothing is downloaded. Features are standardised with the mean and the
standard deviation of the training examples. Every problem keeps held-out examples aside.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import distribution
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.likelihoods import Likelihood, bernoulli, categorical, gaussian

# Two measurements that a doctor can picture, correlated enough to make the ellipse lean.
TWO_FEATURES = ("worst perimeter", "worst concavity")
MEASURED = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points",
            "symmetry", "fractal dimension")  # fmt: skip


class Problem(NamedTuple):
    """A model with data: all that the rest of the library needs of it.

    Examples:
        >>> loss_fn = lambda theta, x, y: (theta * x - y) ** 2 / 2
        >>> predict_fn = lambda theta, x: theta * x
        >>> slope = ef.Problem("a slope", loss_fn, predict_fn, 1.0, x=jnp.array([1.0, 2.0]), y=jnp.array([3.0, 2.0]))
        >>> print(ef.mean_loss(slope, 1.0), ef.mean_loss(slope, 1.4))  # (2 + 0)/2, and at the optimum
        1.0 0.8
    """

    name: str
    loss_fn: Callable
    """`loss_fn(params, x, y)`: the loss of one example, a scalar."""
    predict_fn: Callable
    """`predict_fn(params, x)`: a mean, a probability, or the probabilities of the classes, for one example."""
    params: PyTree
    """θ, where the course looks at the loss."""
    x: Real[Array, "n ..."]
    y: Real[Array, " n"]
    x_test: Real[Array, "m ..."] | None = None
    """Held-out examples, never trained on; None if there are none."""
    y_test: Real[Array, " m"] | None = None
    output_fn: Callable | None = None
    """`output_fn(params, x)`: the z of the likelihood (a mean, log-odds, logits), for one example."""
    likelihood: Likelihood | None = None
    """p(y | z): `loss_fn` is its negative logarithm, `predict_fn` its mean. The Fisher needs it."""


# A pytree of its arrays: scenes and compiled functions take it whole.
jax.tree_util.register_dataclass(
    Problem,
    data_fields=["params", "x", "y", "x_test", "y_test"],
    meta_fields=["name", "loss_fn", "predict_fn", "output_fn", "likelihood"],
)


def linear_regression(n: int = 64, p: int = 2, *, noise: float = 0.5, seed: int = 0) -> Problem:
    """Least squares with Gaussian noise: ℓ = (y - xᵀθ)²/2, so gᵢ = -(y - xᵀθ)x. A toy with closed forms.

    Args:
        n: Training examples; as many are held out.
        p: Parameters.
        noise: Standard deviation of y about xᵀθ.
        seed: Of the draw.

    Returns:
        A `Problem` with x standard normal (n, p) and θ = 0.

    Raises:
        ValueError: n or p is not a whole number of at least 1, or noise is not positive.

    Examples:
        >>> toy = ef.linear_regression(n=1000, noise=0.5)
        >>> solution = jnp.linalg.lstsq(toy.x, toy.y)[0]
        >>> print(f"{ef.mean_loss(toy, solution):.2f}, where σ²/2 = {0.5**2 / 2:.3f}")
        0.12, where σ²/2 = 0.125
    """
    rng, n, p = np.random.default_rng(seed), errors.at_least_one("n", n), errors.at_least_one("p", p)
    noise = float(errors.positive("noise", noise))
    x, truth = rng.normal(size=(2 * n, p)), rng.normal(size=p)
    y = x @ truth + noise * rng.normal(size=2 * n)
    return _problem("linear regression", LINEAR, jnp.zeros(p), x, y, n)


def logistic_regression(n: int = 64, p: int = 2, *, separation: float = 1.0, seed: int = 0) -> Problem:
    """Classify two Gaussian clouds by ℓ = log(1 + exp(z)) - yz, z = xᵀθ, so gᵢ = (σ(z) - y)x.

    Args:
        n: Training examples; as many are held out.
        p: Parameters.
        separation: Distance of each cloud's centre from the origin, in standard deviations.
        seed: Of the draw.

    Returns:
        A `Problem` with x (n, p), y in {0, 1} and θ = 0.

    Raises:
        ValueError: n or p is not a whole number of at least 1, or separation is not positive.

    Examples:
        >>> toy = ef.logistic_regression(separation=2.0)
        >>> print(f"{ef.mean_loss(toy, toy.params):.2f}")  # log 2: at θ = 0 either label is as likely
        0.69
        >>> print(f"{ef.mean_loss(toy, ef.descend(toy, steps=10).params):.2f}")
        0.10
    """
    rng, n, p = np.random.default_rng(seed), errors.at_least_one("n", n), errors.at_least_one("p", p)
    separation = float(errors.positive("separation", separation))
    centre = rng.normal(size=p)
    centre *= separation / np.linalg.norm(centre)
    y = rng.integers(0, 2, size=2 * n).astype(float)
    x = rng.normal(size=(2 * n, p)) + np.outer(2 * y - 1, centre)
    return _problem("logistic regression", LOGISTIC, jnp.zeros(p), x, y, n)


def breast_cancer(features: int | Sequence[str] | None = 2, *, seed: int = 0) -> Problem:
    """569 tumours, 1 = malignant, by logistic regression through the origin. Wisconsin diagnostic data, 1995.

    Args:
        features: 2 for worst perimeter and worst concavity (a θ one can draw), None for all 30, or names of some,
            such as ("mean radius", "worst radius").
        seed: Of the split; a fifth is held out.

    Returns:
        A `Problem` with x (455, p) standardised, y in {0, 1} and θ = 0.

    Raises:
        ValueError: features is neither 2, nor None, nor names of measurements.

    Examples:
        >>> problem = ef.breast_cancer()
        >>> print(problem.x.shape, f"{problem.y.mean():.0%} malignant")
        (455, 2) 36% malignant
        >>> ef.breast_cancer(("mean radius", "worst radius", "mean texture")).x.shape
        (455, 3)
    """
    data = _bundled("breast_cancer.csv")
    known = [form.format(name) for form in ("mean {}", "{} error", "worst {}") for name in MEASURED]
    names = known if features is None else TWO_FEATURES if features == 2 else features
    if isinstance(names, str | int | float) or not len(names) or not {*names} <= {*known}:
        action = f"2 can be drawn; None takes all 30: {', '.join(known)}."
        errors.reject("features", "2, None, or a tuple of names of measurements", f"{features!r}", action)
    chosen = [known.index(name) for name in names]
    x, y, n = _split(data[:, chosen], 1.0 - data[:, -1], seed)  # scikit-learn has 1 = benign
    return _problem("breast cancer", LOGISTIC, jnp.zeros(x.shape[1]), x, y, n)


def digits(hidden: tuple[int, ...] = (32,), *, side: int = 8, seed: int = 0) -> Problem:
    """1797 handwritten digits of 8 × 8 pixels, by a tanh network with softmax cross-entropy.

    Args:
        hidden: Widths of the hidden layers; () is softmax regression.
        side: 4 takes the means of 2 × 2 pixels: a network so small that its Fisher can be written down.
        seed: Of the split (a fifth is held out) and of the first weights.

    Returns:
        A `Problem` with x (1437, side²) standardised, y in 0..9, and params a list of {"W": (out, in), "b": (out,)}.

    Raises:
        ValueError: A width is not a whole number of at least 1; side is neither 8 nor 4.

    Examples:
        >>> problem = ef.digits(hidden=())
        >>> n, p = len(problem.y), sum(array.size for array in jax.tree.leaves(problem.params))
        >>> print(n, p)  # p = 64 · 10 + 10
        1437 650
    """
    if side not in (8, 4):
        errors.reject("side", "8 or 4", f"{side!r}", "8 is every pixel, 4 takes the means of four.")
    widths = (side**2, *(errors.at_least_one("hidden", width) for width in hidden), 10)
    data = _bundled("digits.csv.gz")
    pixels = data[:, :-1].reshape(-1, side, 8 // side, side, 8 // side).mean(axis=(2, 4))
    x, y, n = _split(pixels.reshape(-1, side**2), data[:, -1], seed)
    weights = _normal(jax.random.key(seed), tuple(zip(widths[1:], widths[:-1], strict=True)))
    params = [{"W": W / np.sqrt(W.shape[1]), "b": jnp.zeros(len(W))} for W in weights]
    return _problem("digits", SOFTMAX, params, x, y.astype(int), n)


def mean_loss(problem: Problem, params: PyTree) -> Float[Array, ""]:
    """The training loss L(θ), the mean of ℓᵢ(θ).

    Args:
        problem: The model and its data.
        params: θ, a pytree like `problem.params`.

    Returns:
        L, in the unit of the loss.

    Examples:
        >>> problem = ef.breast_cancer()
        >>> print(f"{ef.mean_loss(problem, jnp.zeros(2)):.3f}")  # log 2: every tumour may be either
        0.693
    """
    return jnp.mean(jax.vmap(problem.loss_fn, in_axes=(None, 0, 0))(params, problem.x, problem.y))


def descend(problem: Problem, *, steps: int, learning_rate: float = 1.0) -> Problem:
    """Take a few steps of plain gradient descent, θ ← θ - η∇L(θ): the problem with a model half-way fitted.

    Args:
        problem: Where to start.
        steps: How many, ≥ 1.
        learning_rate: η > 0.

    Returns:
        The same problem at the new θ.

    Raises:
        ValueError: steps or learning_rate is out of range, or the descent diverged.

    Examples:
        >>> problem = ef.breast_cancer()
        >>> fitted = ef.descend(problem, steps=3)
        >>> print(f"{ef.mean_loss(problem, problem.params):.2f}, then {ef.mean_loss(problem, fitted.params):.2f}")
        0.69, then 0.37
    """
    steps = errors.at_least_one("steps", steps)
    rate = errors.positive("learning_rate", learning_rate)
    params = _descend(problem.loss_fn, steps, problem.params, problem.x, problem.y, rate)
    for leaf in jax.tree.leaves(params):
        errors.finite_rows("learning_rate", leaf.reshape(1, -1), "The descent diverged: make it smaller.")
    return problem._replace(params=params)


@partial(jax.jit, static_argnums=(0, 1))
def _descend(loss_fn, steps, params, x, y, rate):
    gradient = jax.grad(lambda params: jnp.mean(jax.vmap(loss_fn, in_axes=(None, 0, 0))(params, x, y)))

    def move(params, _):
        return jax.tree.map(lambda leaf, g: leaf - rate * g, params, gradient(params)), None

    return lax.scan(move, params, length=steps)[0]


@partial(jax.jit, static_argnums=1)
def _normal(key, shapes):
    """Normal matrices of these shapes, by one program."""
    keys = jax.random.split(key, len(shapes) + 1)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)]


@cache
def _bundled(name: str) -> np.ndarray:
    """The examples of a file that comes with scikit-learn, labels last. To import the package would take a second."""
    path = distribution("scikit-learn").locate_file(f"sklearn/datasets/data/{name}")
    return np.loadtxt(str(path), delimiter=",", skiprows=int(name == "breast_cancer.csv"))


def _split(x, y, seed):
    """Shuffle, hold a fifth out, standardise by the training part. A constant feature stays 0."""
    order = np.random.default_rng(seed).permutation(len(x))
    n = 4 * len(x) // 5
    x, y = x[order], y[order]
    scale = x[:n].std(axis=0)
    return (x - x[:n].mean(axis=0)) / np.where(scale > 0, scale, 1), y, n


def _problem(name, model, params, x, y, n):
    # Cut by NumPy: in JAX each cut would be a program of its own, which stays.
    x, y, x_test, y_test = map(jnp.asarray, (x[:n], y[:n], x[n:], y[n:]))
    loss_fn, predict_fn, *about = model
    return Problem(name, loss_fn, predict_fn, params, x, y, x_test, y_test, *about)


def _model(output_fn, likelihood):
    """The functions of a problem, from a likelihood about the output of a model."""
    loss_fn = lambda params, x, y: likelihood.loss(output_fn(params, x), y)  # noqa: E731
    return loss_fn, lambda params, x: likelihood.mean(output_fn(params, x)), output_fn, likelihood


def _linear(params, x):
    return jnp.vdot(x, params)


def _logits(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(layer["W"] @ x + layer["b"])
    return params[-1]["W"] @ x + params[-1]["b"]


# Made once: a jitted function knows a loss by its identity.
LINEAR = _model(_linear, gaussian)
LOGISTIC = _model(_linear, bernoulli)
SOFTMAX = _model(_logits, categorical)
