"""Everything that computes lowers for CUDA, and what a GPU computes is what a CPU does.

Lowering needs no GPU: JAX translates each function for CUDA here, and would say what it has no translation for. The
second half runs the update on the CPU, and on a GPU where JAX has one, and compares both with the CPU in float64.
"""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from oracles import relative

import efisher_teach as ef
from efisher_teach.core.coordinates import jacobian
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.precondition import precondition
from efisher_teach.core.solve import solve_spectral, spectrum
from efisher_teach.network.update import Report

pytestmark = pytest.mark.heavy

# Models for 6 examples of 4 numbers. They have every way into K.


def network(params, x, y):
    return jnp.sum((params["V"] @ jnp.tanh(params["W"] @ x + params["b"]) - y) ** 2)


def convolution(params, x, y):
    z = lax.conv_general_dilated(x[None, None], params["kernel"], (1,), "SAME")
    return jnp.sum((jnp.sum(jnp.tanh(z), axis=(0, 2))[:2] - y) ** 2)


def recurrence(params, x, y):
    def move(state, x):
        return jnp.tanh(params["U"] @ state + x * params["b"]), None

    return jnp.sum((lax.scan(move, jnp.zeros(2, x.dtype), x)[0] - y) ** 2)


def logits(params, x):
    return params["W"] @ x


def classes(params, x, y):
    return ef.likelihoods.categorical.loss(logits(params, x), y)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


MODELS = [
    (network, {"V": array(2, 5), "W": array(5, 4), "b": array(5)}),
    (convolution, {"kernel": array(3, 1, 3)}),
    (recurrence, {"U": array(2, 2), "b": array(2)}),
]
X, Y, LABELS, SOFTMAX = array(6, 4), array(6, 2), array(6, dtype=jnp.int32), {"W": array(3, 4)}
WIDE, TALL, A, g, t, number = array(4, 6), array(6, 4), array(6, 6), array(6), array(4), array()
KEY = jax.eval_shape(partial(jax.random.key, 0))
LIKELIHOOD = {"output_fn": logits, "likelihood": ef.likelihoods.categorical}
FORMS = ("full", "diagonal", "root", "diagonal root", "none")
CHART, TOY = ef.coordinates.exponential, ef.linear_regression(4, 4)
SEVEN = array(7)  # ψ or Δψ of a chart with one number more than parameters


def of_models(function, *more):
    """The same for every model: `function(loss_fn, params, x, y, *more)`."""
    return [(partial(function, loss_fn), params, X, Y, *more) for loss_fn, params in MODELS]


def known(chunk_size, loss_fn, params, x, y, weights):
    result = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
    return result.losses, result.K, result.weighted_gradient(weights)


def rate_or_budget(function, given, *arguments, **options):
    """With ε and η or c as the last two arguments: they may come out of other computations."""
    *arguments, damping, scale = arguments
    return function(*arguments, damping=damping, **{given: scale}, **options)


def moved(given, mesh, loss_fn, params, x, y, damping, scale):
    make = partial(ef.make_update, loss_fn, mesh=mesh)
    return rate_or_budget(make, given, damping, scale)(params, x, y)


def changed(function, loss_fn, params, x, y):
    delta = jnp.ones(ravel_pytree(params)[0].size)
    return function(loss_fn, params, x, y, delta)


def toy(params, x, y):
    return TOY._replace(params=params, x=x, y=y)


def averaged(G):
    running = ef.running_fisher(0.9)
    _, state = running.update(running.init(G.shape[1]), G)
    return running.update(state, G)


def both(function, *arguments, **options):
    """With a budget and with a learning rate."""
    return [
        (partial(rate_or_budget, function, given, **options), *arguments, number, number)
        for given in ("budget", "learning_rate")
    ]


def natural(params, x, y, damping, scale):
    make = partial(ef.make_natural_update, logits, ef.likelihoods.categorical)
    return rate_or_budget(make, "budget", damping, scale)(params, x, y)


def by_adam(params, x, y):
    optimizer = pytest.importorskip("optax").adam(1e-3)
    update, start = ef.optax_update(network, optimizer, params)
    return update(start, x, y)


def scaled(options, G, damping):
    pytest.importorskip("optax")
    transformation = ef.scale_by_empirical_fisher(damping, **options)
    return transformation.update(G, transformation.init(G[0]))


# What is exported for each public function: (function, *arguments), once or more.
EXPORTED = {
    "damping_path": [(ef.damping_path, WIDE, array(5), number)],
    "descend": [(lambda *of: ef.descend(toy(*of), steps=3).params, array(4), X, array(6))],
    "empirical_fisher": [(ef.empirical_fisher, WIDE)],
    "empirical_fisher_diagonal": [(ef.empirical_fisher_diagonal, WIDE)],
    "empirical_fisher_step": [*both(ef.empirical_fisher_step, WIDE), *both(ef.empirical_fisher_step, TALL)],
    "fisher": [
        (lambda params, x: ef.fisher(classes, params, x, **LIKELIHOOD), SOFTMAX, X),
        (
            lambda params, x, key: ef.fisher(classes, params, x, sampled=2, key=key, **LIKELIHOOD),
            *(SOFTMAX, X, KEY),
        ),
    ],
    "gauss_newton": [(partial(ef.gauss_newton, logits, ef.likelihoods.categorical.loss), SOFTMAX, X, LABELS)],
    "generalised_eigenvalues": [(ef.generalised_eigenvalues, A, A)],
    "gradient_covariance": [(ef.gradient_covariance, WIDE)],
    "gram": [(ef.gram, WIDE)],
    "hessian": of_models(ef.hessian),
    "invariance_gap": both(partial(ef.invariance_gap, CHART), g, WIDE),
    "jacobian": [(partial(jacobian, ef.coordinates.weight_norm), SEVEN)],
    "loss_changes": of_models(partial(changed, ef.loss_changes)),
    "loss_gram": [*of_models(partial(known, None), g), *of_models(partial(known, 1), g)],
    "make_update": [
        *of_models(partial(moved, "budget", None), number, number),
        *of_models(partial(moved, "learning_rate", None), number, number),
        *of_models(
            partial(moved, "budget", Mesh(np.array(jax.devices()[:1]), ("examples",))), number, number
        ),
    ],
    "make_natural_update": [(natural, SOFTMAX, X, LABELS, number, number)],
    "mean_gradient": [(ef.mean_gradient, WIDE)],
    "mean_loss": [(lambda *of: ef.mean_loss(toy(*of), of[0]), array(4), X, array(6))],
    "optax_update": [(by_adam, MODELS[0][1], X, Y)],
    "outcome": of_models(partial(changed, ef.outcome)),
    "per_example_gradients": [
        *of_models(ef.per_example_gradients),
        *of_models(partial(ef.per_example_gradients, chunk_size=4)),
    ],
    "per_example_jacobians": [(partial(per_example_jacobians, logits), SOFTMAX, X)],
    "per_example_losses": of_models(ef.per_example_losses),
    "precondition": [(partial(precondition, form=form), A, g, number) for form in FORMS],
    "pull_back": [(ef.pull_back, WIDE, A)],
    "push_forward": [(ef.push_forward, A, g)],
    "quadratic_form": [(ef.quadratic_form, A, g)],
    "regress": [(ef.regress, WIDE, t, number), (ef.regress, TALL, g, number)],
    "running_fisher": [(averaged, WIDE)],
    "scale_by_empirical_fisher": [
        (partial(scaled, options), WIDE, number) for options in ({}, {"decay": 0.9, "memory": 8})
    ],
    "solve_dual": [(ef.solve_dual, WIDE, number)],
    "solve_gram": [(ef.solve_gram, A, number), (ef.solve_gram, A, number, g)],
    "solve_primal": [(ef.solve_primal, A, g, number)],
    "solve_rank_one": [(ef.solve_rank_one, WIDE, t, g, number)],
    "solve_spectral": [(lambda G, e: solve_spectral(spectrum(G), e), WIDE, array(5))],
    "spectrum": [(spectrum, WIDE), (spectrum, TALL)],
    "squared_batch_gradient": [(partial(ef.squared_batch_gradient, batch_size=3), WIDE)],
    "step_in": [
        case
        for form in FORMS
        for metric in (False, True)
        for case in both(partial(ef.step_in, CHART), g, WIDE, form=form, metric_damping=metric)
    ],
    "targeted_step": [
        (lambda G, t, e, c: ef.targeted_step(G, t, damping=e, budget=c), WIDE, t, number, number)
    ],
    "trajectory_in": [
        (
            lambda theta, x, y, e, c: ef.trajectory_in(
                CHART, lambda theta, x, y: (x @ theta - y) ** 2, theta, x, y, steps=3, damping=e, budget=c
            ),
            *(array(4), X, array(6), number, number),
        )
    ],
    "two_budget_step": [(ef.two_budget_step, WIDE, number, number)],
    "weighted_gradient": of_models(ef.weighted_gradient, g),
}
# The other public names, and why nothing of theirs is exported.
CARD = "part of a lesson: a card, a file, or numbers for pencil and paper"
NOT_EXPORTED = {
    "Explorer": "a widget: it shows tables, which test_scenes.py exports",
    "breast_cancer": "reads data, in NumPy",
    "check": CARD,
    "coordinates": "a module: its charts are exported with what takes them",
    "derivation": "a module",
    "digits": "reads data, in NumPy",
    "environment": CARD,
    "fit": "a loop in Python, over an update that is exported",
    "given": CARD,
    "guesses": CARD,
    "hint": CARD,
    "lab_record": CARD,
    "ledger": "an auditor, in NumPy and float64 on purpose",
    "likelihoods": "a module: its functions are exported with the Fisher",
    "linear_regression": "draws data, in NumPy",
    "logistic_regression": "draws data, in NumPy",
    "predict": CARD,
    "scenes": "a module: its tables are exported by test_scenes.py",
    "tune": "a loop in Python, over updates that are exported",
}


def lowered(function, *arguments):
    """The program for CUDA, as text."""
    program = jax.export.export(jax.jit(function), platforms=["cuda"])(*arguments)
    assert program.platforms == ("cuda",)
    return program.mlir_module()


def test_no_public_function_is_forgotten():
    others = set(ef.__all__) - set(NOT_EXPORTED)
    types = {name for name in others if isinstance(getattr(ef, name), type)}
    assert others - types == set(EXPORTED)
    assert set(NOT_EXPORTED) <= set(ef.__all__)
    assert all(EXPORTED.values())


@pytest.mark.parametrize("name", EXPORTED)
def test_lowers_for_cuda(name):
    for function, *arguments in EXPORTED[name]:
        assert "func.func public @main" in lowered(function, *arguments)


def test_models_have_every_way_into_the_gram_matrix():
    ways = set()

    def look(loss_fn, chunk_size, *of):
        result = ef.loss_gram(loss_fn, *of, chunk_size=chunk_size)
        ways.update(leaf.way for leaf in result.leaves)
        return result.K

    for loss_fn, params in MODELS:
        for chunk_size in (None, 1):
            jax.eval_shape(partial(look, loss_fn, chunk_size), params, X, Y)
    assert ways == {"factors", "rows", "columns", "blocks"}


@pytest.mark.parametrize(
    ("name", "solver"),
    [("solve_gram", "syevd"), ("make_update", "syevd"), ("solve_dual", "getrf"), ("spectrum", "gesvdj")],
)
def test_factorisations_are_those_of_the_gpu(name, solver):
    function, *arguments = EXPORTED[name][0]
    assert f"cusolver_{solver}" in lowered(function, *arguments)
    assert "lapack" not in lowered(function, *arguments)


def test_what_has_no_translation_is_found():
    """JAX has the Schur decomposition for CPUs only."""
    with pytest.raises(NotImplementedError, match=r"schur.* not found for platform cuda"):
        lowered(lax.linalg.schur, A)


def imprecise(text):
    """The products that leave their precision open."""
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    return [line for line in products if "[HIGHEST, HIGHEST]" not in line]


def test_products_ask_for_full_precision():
    """A GPU rounds float32 products to TF32 if nothing is said. The loss may leave it open; what is ours may not."""
    for name in ("gram", "solve_gram", "solve_dual", "solve_primal", "regress", "empirical_fisher_step"):
        function, *arguments = EXPORTED[name][0]
        assert not imprecise(lowered(function, *arguments))
    function, *arguments = EXPORTED["make_update"][0]
    assert imprecise(lowered(function, *arguments))
    with jax.default_matmul_precision("highest"):
        assert not imprecise(lowered(function, *arguments))


# What a device computes, in float32.


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """Where arrays go for as long as the test runs; products in full precision, also those of the loss."""
    try:
        device = jax.devices(request.param)[0]
    except RuntimeError:
        pytest.skip("JAX has no GPU here")
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        yield device


@contextmanager
def reference():
    """The CPU in float64."""
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        yield


def draw(loss_fn):
    """params, x and y for a model: numbers of float32, as float64, for both sides."""
    rng = np.random.default_rng(3)
    trees = (dict(MODELS)[loss_fn], X, Y)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32).astype(float), trees)


def wide():
    """A network with more parameters than examples, so that K has full rank."""
    rng = np.random.default_rng(3)
    shapes = {"V": (4, 32), "W": (32, 16), "b": (32,)}
    params = {name: rng.normal(size=shape) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    trees = (params, rng.normal(size=(12, 16)), rng.normal(size=(12, 4)))
    return jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(float), trees)


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(tree)])


def on(device, tree):
    """Whether all of it was computed there: a test of a GPU that runs elsewhere would show nothing."""
    return all(leaf.devices() == {device} for leaf in jax.tree.leaves(tree))


LOSSES = [loss_fn for loss_fn, _ in MODELS]


@pytest.mark.parametrize("loss_fn", LOSSES)
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_gram_matrix_and_pull_on_a_device(device, loss_fn, chunk_size):
    weights = np.linspace(-1, 1, 6)
    with reference():
        expected = known(chunk_size, loss_fn, *draw(loss_fn), jnp.asarray(weights))
    found = known(chunk_size, loss_fn, *single(draw(loss_fn)), jnp.asarray(weights, jnp.float32))
    assert on(device, found)
    for value, right in zip(found, expected, strict=True):
        assert relative(flat(value), flat(right)) <= 1e-5


@pytest.mark.parametrize("damping", [10.0**-k for k in range(1, 8)])
def test_update_on_a_device(device, damping):
    """The step itself, which is as large as the parameters here: their rounding would hide nothing."""
    data = wide()
    with reference():
        expected, report = ef.make_update(network, damping=damping, budget=1.0)(*data)
    found, told = ef.make_update(network, damping=damping, budget=1.0)(*single(data))
    assert on(device, (found, told))
    old = flat(data[0])
    assert relative(flat(found) - old, flat(expected) - old) <= 1e-5
    assert bool(told.finite)
    for name in set(Report._fields) - {"finite", "residual"}:
        assert float(getattr(told, name)) == pytest.approx(float(getattr(report, name)), rel=1e-5), name
    assert float(told.residual) <= 1e-5


@pytest.mark.parametrize("damping", [0.0, 1e-7, 1e-3])
def test_repeated_examples_on_a_device(device, damping):
    """K is singular: where ε cannot be seen there is no Cholesky factor. C and g, and so the step, are the same."""
    params, x, y = wide()
    with reference():
        expected, _ = ef.make_update(network, damping=damping, budget=1.0)(params, x, y)
    twice = single((params, np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0)))
    found, report = ef.make_update(network, damping=damping, budget=1.0)(*twice)
    assert on(device, (found, report))
    assert bool(report.finite)
    old = flat(params)
    assert relative(flat(found) - old, flat(expected) - old) <= 1e-4


def test_what_is_not_finite_is_seen_on_a_device(device):
    """The parameters stay as they were."""
    params, x, y = single(wide())
    y = y.at[0, 0].set(1e30)  # its square is infinite in float32
    found, report = ef.make_update(network, damping=1e-3, budget=1.0)(params, x, y)
    assert on(device, (found, report))
    assert not bool(report.finite)
    assert np.array_equal(flat(found), flat(params))


def test_products_of_the_library_are_precise_on_a_device(device):
    """Whatever JAX's default: TF32 would be wrong by 1e-3."""
    G = np.random.default_rng(0).normal(size=(32, 256)).astype(np.float32)
    with jax.default_matmul_precision("default"):
        K = ef.gram(jnp.asarray(G))
    assert on(device, K)
    assert relative(K, G.astype(float) @ G.T.astype(float) / 32) <= 1e-6
