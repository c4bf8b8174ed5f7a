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
from efisher_teach.network.update import Report

pytestmark = pytest.mark.heavy

# Models for 6 examples of 4 numbers. Their arrays enter K in every way.


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
CHART, TOY = ef.coordinates.exponential, ef.linear_regression(4, 4)


def known(chunk_size, loss_fn, params, x, y, weights):
    result = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
    return result.losses, result.K, result.weighted_gradient(weights)


def after_update(loss_fn, mesh, params, x, y, damping, budget):
    return ef.make_update(loss_fn, damping=damping, budget=budget, mesh=mesh)(params, x, y)


def natural(params, x, y, damping, rate):
    output_fn, likelihood = LIKELIHOOD.values()
    return ef.make_natural_update(output_fn, likelihood, damping=damping, learning_rate=rate)(params, x, y)


def changed(params, x, y):
    return ef.loss_changes(network, params, x, y, jnp.ones(ravel_pytree(params)[0].size))


def toy(params, x, y):
    return TOY._replace(params=params, x=x, y=y)


def by_adam(params, x, y):
    update, start = ef.optax_update(network, pytest.importorskip("optax").adam(1e-3), params)
    return update(start, x, y)


def scaled(G, damping, **options):
    transformation = ef.scale_by_empirical_fisher(damping, **options)
    return transformation.update(G, transformation.init(G[0]))


def step_by(form, metric, G_or_C, g, damping, budget):
    options = {"budget": budget, "form": form, "metric_damping": metric}
    return ef.step_in(CHART, g, G_or_C, damping=damping, **options)


def of_models(function):
    """Once for each model, which is its first argument."""
    return [(partial(function, loss_fn), params) for loss_fn, params in MODELS]


ONE_DEVICE = Mesh(np.array(jax.devices()[:1]), ("examples",))
# What is exported for each public function: (function, *arguments), once or more.
EXPORTED = {
    "damping_path": [(ef.damping_path, WIDE, array(5), number)],
    "descend": [(lambda *of: ef.descend(toy(*of), steps=3).params, array(4), X, array(6))],
    "empirical_fisher": [(ef.empirical_fisher, WIDE)],
    "empirical_fisher_step": [
        (lambda G, e, c: ef.empirical_fisher_step(G, damping=e, budget=c), WIDE, number, number),
        (lambda G, e, c: ef.empirical_fisher_step(G, damping=e, learning_rate=c), TALL, number, number),
    ],
    "fisher": [
        (lambda params, x: ef.fisher(classes, params, x, **LIKELIHOOD), SOFTMAX, X),
        (lambda *of: ef.fisher(classes, *of[:2], sampled=2, key=of[2], **LIKELIHOOD), SOFTMAX, X, KEY),
    ],
    "gauss_newton": [(partial(ef.gauss_newton, logits, ef.likelihoods.categorical.loss), SOFTMAX, X, LABELS)],
    "generalised_eigenvalues": [(ef.generalised_eigenvalues, A, A)],
    "gradient_covariance": [(ef.gradient_covariance, WIDE)],
    "gram": [(ef.gram, WIDE)],
    "hessian": [(*of, X, Y) for of in of_models(ef.hessian)],
    "invariance_gap": [
        (lambda g, G, e, c: ef.invariance_gap(CHART, g, G, damping=e, budget=c), g, WIDE, number, number)
    ],
    "loss_changes": [(changed, MODELS[0][1], X, Y)],
    "loss_gram": [(*of, X, Y, g) for size in (None, 1) for of in of_models(partial(known, size))],
    "make_natural_update": [(natural, SOFTMAX, X, LABELS, number, number)],
    "make_update": [
        (partial(after_update, loss_fn, mesh), params, X, Y, number, number)
        for loss_fn, params in MODELS
        for mesh in (None, ONE_DEVICE)
    ],
    "mean_gradient": [(ef.mean_gradient, WIDE)],
    "mean_loss": [(lambda *of: ef.mean_loss(toy(*of), of[0]), array(4), X, array(6))],
    "optax_update": [(by_adam, MODELS[0][1], X, Y)],
    "per_example_gradients": [
        (*of, X, Y)
        for size in (None, 4)
        for of in of_models(partial(ef.per_example_gradients, chunk_size=size))
    ],
    "per_example_losses": [(*of, X, Y) for of in of_models(ef.per_example_losses)],
    "pull_back": [(ef.pull_back, WIDE, A)],
    "push_forward": [(ef.push_forward, A, g)],
    "quadratic_form": [(ef.quadratic_form, A, g)],
    "scale_by_empirical_fisher": [
        (scaled, WIDE, number),
        (partial(scaled, decay=0.9, memory=8), WIDE, number),
    ],
    "solve_dual": [(ef.solve_dual, WIDE, number)],
    "solve_gram": [(ef.solve_gram, A, number), (ef.solve_gram, A, number, g)],
    "solve_primal": [(ef.solve_primal, A, g, number)],
    "step_in": [
        (partial(step_by, form, metric), WIDE, g, number, number)
        for form in ("full", "diagonal", "root", "diagonal root", "none")
        for metric in (False, True)
    ],
    "targeted_step": [(lambda *of: ef.targeted_step(*of[:2], damping=of[2]), WIDE, t, number)],
    "two_budget_step": [(ef.two_budget_step, WIDE, number, number)],
    "weighted_gradient": [(*of, X, Y, g) for of in of_models(ef.weighted_gradient)],
}
# Data and audits in NumPy, loops in Python over updates that are exported, modules, and all that is shown.
DATA = {"breast_cancer", "digits", "ledger", "linear_regression", "logistic_regression"}
LOOPS = {"fit", "tune"}
MODULES = {"coordinates", "likelihoods", "scenes"}
SHOWN = {"Explorer", "check", "environment", "given", "guesses", "lab_record", "predict"}


def lowered(function, *arguments):
    """The program for CUDA, as text."""
    program = jax.export.export(jax.jit(function), platforms=["cuda"])(*arguments)
    assert program.platforms == ("cuda",)
    return program.mlir_module()


def test_no_public_function_is_forgotten():
    assert set(ef.__all__) == {*EXPORTED, *DATA, *LOOPS, *MODULES, *SHOWN, "Problem"}


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
    [("solve_gram", "syevd"), ("make_update", "syevd"), ("solve_dual", "getrf"), ("damping_path", "gesvdj")],
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
    for name in ("gram", "solve_gram", "solve_dual", "solve_primal", "empirical_fisher_step"):
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
