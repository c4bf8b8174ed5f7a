"""Everything that computes lowers for CUDA, and what a GPU computes is what a CPU does.

Lowering needs no GPU: JAX translates each function for CUDA here, and would say what it has no translation for. The
second half runs the update on the CPU, and on a GPU where JAX has one, and compares both with the CPU in float64.
"""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from oracles import flat, relative

import efisher_teach as ef

pytestmark = pytest.mark.heavy

# Models for 6 examples of 4 numbers. Their arrays enter K in every way.


def network(params, x, y):
    return jnp.sum((params["V"] @ jnp.tanh(params["W"] @ x + params["b"]) - y) ** 2)


def convolution(kernel, x, y):
    z = lax.conv_general_dilated(x[None, None], kernel, (1,), "SAME")
    return jnp.sum((jnp.sum(jnp.tanh(z), axis=(0, 2))[:2] - y) ** 2)


def recurrence(U, x, y):
    return jnp.sum((lax.scan(lambda state, x: (jnp.tanh(U @ state + x), None), y, x)[0] - y) ** 2)


NETWORK = {"V": jnp.ones((2, 32)), "W": jnp.ones((32, 4)), "b": jnp.ones(32)}
MODELS = {network: NETWORK, convolution: jnp.ones((3, 1, 3)), recurrence: jnp.ones((2, 2))}
# What functions are given, by the names of their arguments; only the shapes count.
SHAPES = dict.fromkeys("ABCJ", (6, 6)) | {"G": (4, 6), "K": (4, 4), "g": (6,), "target": (4,), "delta": (6,)}
SHAPES |= {"dampings": (5,), "theta": (4,), "x": (6, 4), "y": (6, 2), "W": (3, 4)}
SHAPES |= dict.fromkeys(["damping", "budget", "radius"], ())
GIVEN = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
GIVEN |= {"labels": jnp.ones(6, int), "models": [*MODELS.values()]}


def known(loss_fn, params, x, y, chunk_size=None):
    result = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
    return result.losses, result.K, result.weighted_gradient(jnp.linspace(-1, 1, 6, dtype=result.K.dtype))


def updated(loss_fn, *data):
    return ef.make_update(loss_fn, damping=0.1, budget=0.1)(*data)


def fisher(W, x):
    function = partial(ef.fisher, lambda W, x, y: LIKELIHOOD.loss(W @ x, y), W, x, **LINEAR)
    return function(), function(sampled=2, key=jax.random.key(0))


def scaled(G, damping, **average):
    transformation = ef.scale_by_empirical_fisher(damping, **average)
    return transformation.update(G, transformation.init(G[0]))


def of_models(*functions):
    """Each function with the loss and the parameters of every model."""
    return lambda models, x, y: [
        function(*model, x, y) for function in functions for model in zip(MODELS, models, strict=True)
    ]


LIKELIHOOD, CHART, TOY = ef.likelihoods.categorical, ef.coordinates.exponential, ef.linear_regression(4, 4)
LINEAR = {"output_fn": jnp.matmul, "likelihood": LIKELIHOOD}
NATURALLY = ef.make_natural_update(**LINEAR, damping=0.1, budget=0.1)
BY_ADAM, START = ef.optax_update(network, optax.adam(1e-3), NETWORK)
CHUNKED = partial(ef.per_example_gradients, chunk_size=4)
FORMS = ("full", "diagonal", "root", "diagonal root", "none")
# Every public function as it is, or in the form in which it is exported.
AS_IT_IS = ["damping_path", "empirical_fisher", "empirical_fisher_step", "generalised_eigenvalues", "gram"]
AS_IT_IS += ["gradient_covariance", "mean_gradient", "pull_back", "push_forward", "quadratic_form"]
AS_IT_IS += ["solve_dual", "solve_gram", "solve_primal", "targeted_step", "two_budget_step"]
EXPORTED = {name: getattr(ef, name) for name in AS_IT_IS} | {
    "descend": lambda theta: ef.descend(TOY._replace(params=theta), steps=3).params,
    "fisher": fisher,
    "gauss_newton": lambda W, x, labels: ef.gauss_newton(jnp.matmul, LIKELIHOOD.loss, W, x, labels),
    "hessian": of_models(ef.hessian),
    "invariance_gap": lambda g, G, damping: ef.invariance_gap(CHART, g, G, damping=damping, budget=0.1),
    "loss_changes": lambda models, x, y: ef.loss_changes(network, models[0], x, y, jnp.ones(224)),
    "loss_gram": of_models(known, partial(known, chunk_size=1)),
    "make_natural_update": lambda W, x, labels: NATURALLY(W, x, labels),
    "make_update": of_models(updated),
    "mean_loss": lambda theta: ef.mean_loss(TOY, theta),
    "optax_update": lambda x, y: BY_ADAM(START, x, y),
    "per_example_gradients": of_models(ef.per_example_gradients, CHUNKED),
    "per_example_losses": of_models(ef.per_example_losses),
    "scale_by_empirical_fisher": lambda G: [scaled(G, 0.1), scaled(G, 0.1, decay=0.9, memory=8)],
    "step_in": lambda g, G: [ef.step_in(CHART, g, G, budget=0.1, form=form) for form in FORMS],
    "weighted_gradient": of_models(partial(ef.weighted_gradient, weights=jnp.ones(6))),
}
# Data and audits in NumPy, loops in Python over updates that are exported, modules, and all that is shown.
OTHERS = {"breast_cancer", "digits", "ledger", "linear_regression", "logistic_regression", "fit", "tune"}
OTHERS |= {"coordinates", "likelihoods", "scenes", "Explorer", "Problem", "check", "environment", "given"}
OTHERS |= {"guesses", "lab_record", "predict"}


def lowered(function):
    """The program for CUDA, as text."""
    given = {name: GIVEN[name] for name in inspect.signature(function).parameters if name in GIVEN}
    return jax.export.export(jax.jit(function), platforms=["cuda"])(**given).mlir_module()


def test_no_public_function_and_no_way_into_the_gram_matrix_is_forgotten():
    assert set(ef.__all__) == {*EXPORTED, *OTHERS}
    data = GIVEN["x"], GIVEN["y"]
    grams = [ef.loss_gram(*model, *data, chunk_size=size) for model in MODELS.items() for size in (None, 1)]
    assert {leaf.way for gram in grams for leaf in gram.leaves} == {"factors", "rows", "columns", "blocks"}


@pytest.mark.parametrize("name", EXPORTED)
def test_lowers_for_cuda(name):
    assert "func.func public @main" in lowered(EXPORTED[name])


# What a device computes, in float32.


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def compare(request):
    """Run a function on a device and on the CPU in float64; products in full precision, also those of the loss."""
    try:
        device = jax.devices(request.param)[0]
    except RuntimeError:
        pytest.skip("JAX has no GPU here")

    def both(function, data, same_data=None):
        with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
            expected = function(*jax.tree.map(jnp.asarray, data))
        single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), same_data or data)
        found = function(*single)
        # A test of a GPU that runs elsewhere would show nothing.
        assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(found))
        return found, expected

    with jax.default_device(device), jax.default_matmul_precision("highest"):
        yield both


def draw(loss_fn):
    """params, x and y for a model: numbers of float32, as float64, for both sides."""
    rng = np.random.default_rng(4)
    numbers = lambda leaf: np.float32(rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5).astype(float)  # noqa: E731
    return jax.tree.map(numbers, (MODELS[loss_fn], GIVEN["x"], GIVEN["y"]))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("loss_fn", MODELS)
def test_gram_matrix_on_a_device(compare, loss_fn, chunk_size):
    for value, right in zip(
        *compare(partial(known, loss_fn, chunk_size=chunk_size), draw(loss_fn)), strict=True
    ):
        assert relative(flat(value), flat(right)) <= 1e-5


@pytest.mark.parametrize("damping", [1e-1, 1e-3, 1e-5, 1e-7, 0.0])
def test_update_on_a_device(compare, damping):
    """The step itself. Where examples are repeated, K is singular, and C, g and the step are the same."""
    data, update = draw(network), ef.make_update(network, damping=damping, budget=1.0)
    twice = (data[0], *(np.repeat(rows, 2, axis=0) for rows in data[1:]))
    for same_data, close in (data, 1e-5), (twice, 1e-4):
        (found, report), (expected, wanted) = compare(update, data, same_data)
        assert relative(flat(found) - flat(data[0]), flat(expected) - flat(data[0])) <= close
        np.testing.assert_allclose(report[:8], wanted[:8], rtol=close, atol=close)
    # What is not finite is seen, and not done.
    data[2][0, 0] = 1e30  # its square is infinite in float32
    (found, report), _ = compare(update, data)
    assert not report.finite
    assert np.array_equal(flat(found), flat(data[0]))
