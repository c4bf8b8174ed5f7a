"""The same matrices by others: PyTorch alone, NNGeometry, and curvlinops, on the same weights and digits.

Optional: `make test-peers` makes an environment that has them. What needs a missing package is skipped, or fails if
EFISHER_TEACH_REQUIRE_PEERS is set. What each of them means by its matrix, a mean or a sum, is said where it is used.
"""

import importlib
import os
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree

import efisher_teach as ef
from efisher_teach.core.solve import solve_spectral, spectrum

theirs_warn = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("x64"), theirs_warn]

N, HIDDEN, BATCH = 40, 6, 16  # 40 = 16 + 16 + 8: batches of unequal size
DAMPING, BUDGET = 1e-2, 0.01
# A number here is a sum over 40 examples of what went through sums of 64, 6 and 10 terms: 120 roundings, and as many
# for tanh, softmax and the way back. Relative to the norm of the whole, for it is the norm that is compared.
ROUNDING = 240 * float(np.finfo(float).eps)
STOP = 1e-13  # the residual at which an iterative solver ends, relative to ‖g‖


def need(name):
    """A package, or a skip; with EFISHER_TEACH_REQUIRE_PEERS its absence is an error."""
    required = os.environ.get("EFISHER_TEACH_REQUIRE_PEERS")
    return importlib.import_module(name) if required else pytest.importorskip(name)


@pytest.fixture(scope="module")
def ours():
    """All that the library says of 40 digits and a tanh network, in float64."""
    with jax.enable_x64(True):
        # A little trained, so that its biases are not 0 and no matrix passes for another.
        problem = ef.descend(ef.digits((HIDDEN,)), steps=5)
        loss_fn, output_fn, believed = problem.loss_fn, problem.output_fn, problem.likelihood
        params, x, y = problem.params, problem.x[:N], problem.y[:N]

        @jax.jit  # compiled once, instead of operation by operation
        def answers(params, x, y):
            G = ef.per_example_gradients(loss_fn, params, x, y)
            g, C = ef.mean_gradient(G), ef.empirical_fisher(G)
            return {
                "theta": ravel_pytree(params)[0],
                "least": jax.vmap(problem.predict_fn, (None, 0))(params, x).min(),
                "losses": ef.per_example_losses(loss_fn, params, x, y),
                "G": G,
                "g": g,
                "C": C,
                "covariance": ef.gradient_covariance(G),
                "K": ef.gram(G),
                "F": ef.fisher(loss_fn, params, x, output_fn=output_fn, likelihood=believed),
                "gauss_newton": ef.gauss_newton(output_fn, believed.loss, params, x, y),
                "H": ef.hessian(loss_fn, params, x, y),
                "primal": ef.solve_primal(C, g, DAMPING),
                "dual": ef.solve_dual(G, DAMPING),
                "spectral": solve_spectral(spectrum(G), DAMPING),
                "step": ef.empirical_fisher_step(G, damping=DAMPING, budget=BUDGET),
            }

        found = jax.tree.map(np.asarray, answers(params, x, y))
    found = SimpleNamespace(params=params, x=x, y=y, **found)
    assert min(oracles.relative(found.C, found.F), oracles.relative(found.H, found.F)) > 0.5
    found.condition = np.linalg.norm(found.C, 2) / DAMPING + 1  # of C + εI
    return found


class Theirs(NamedTuple):
    """The same network and digits in PyTorch."""

    torch: Any
    model: Any
    x: Any
    y: Any

    def losses(self, x, y):
        """The loss of every example."""
        return self.torch.nn.functional.cross_entropy(self.model(x), y, reduction="none")

    def flat(self, parts):
        """One after the other, row by row."""
        return self.torch.cat([part.ravel() for part in parts])

    def batches(self, size=BATCH):
        """The examples, a few at a time."""
        data = self.torch.utils.data
        return data.DataLoader(data.TensorDataset(self.x, self.y), batch_size=size)


@pytest.fixture
def theirs(ours):
    """In float64, as all that PyTorch makes. Weights are (out, in) here and there, so they are copied as they are."""
    torch = need("torch")
    torch.set_num_threads(1)  # the matrices are small, and on a busy machine threads wait for each other
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    layers = [torch.nn.Linear(64, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 10)]
    with torch.no_grad():
        for layer, values in zip((layers[0], layers[2]), ours.params, strict=True):
            layer.weight.copy_(torch.tensor(np.asarray(values["W"])))
            layer.bias.copy_(torch.tensor(np.asarray(values["b"])))
    x, y = torch.tensor(np.asarray(ours.x)), torch.tensor(np.asarray(ours.y, np.int64))
    yield Theirs(torch, torch.nn.Sequential(*layers), x, y)
    torch.set_default_dtype(before)


def assert_agrees(theirs, ours, tolerance=ROUNDING):
    """Shape, precision and numbers."""
    theirs = theirs.detach().numpy()
    assert theirs.dtype == np.float64
    assert theirs.shape == ours.shape
    assert oracles.relative(theirs, ours) < tolerance


def assert_solves(u, ours, cost, tolerance=ROUNDING):
    """Their (C + εI)⁻¹g is ours by every way, and so is the step; `cost` is their ΔᵀCΔ. Residual first."""
    u = u.detach()
    left = ours.C @ u.numpy() + DAMPING * u.numpy() - ours.g
    # What is rounded is ‖C‖‖u‖, up to the condition times ‖g‖; u is wrong by the condition times what C and g are.
    close = ours.condition * tolerance
    assert np.linalg.norm(left) < close * np.linalg.norm(ours.g)
    for direction in (ours.primal, ours.dual, ours.spectral):
        assert_agrees(u, direction, close)
    delta = -((BUDGET / cost(u)) ** 0.5) * u
    assert_agrees(delta, ours.step.delta, close)
    np.testing.assert_allclose(cost(delta), ours.step.budget_spent, rtol=ROUNDING)


def test_the_same_network(ours, theirs):
    """Ravelled in one order, layer by layer, W before b, W row by row; one backward pass for every example."""
    parameters, losses = list(theirs.model.parameters()), theirs.losses(theirs.x, theirs.y)
    np.testing.assert_array_equal(theirs.flat(parameters).detach(), ours.theta)
    assert all(layer["b"].all() for layer in ours.params)
    assert_agrees(losses, ours.losses)
    rows = [theirs.torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    assert_agrees(theirs.torch.stack([theirs.flat(row) for row in rows]), ours.G)


# NNGeometry. Its Fishers are MEANS over the examples (1/n), also where these come in batches.


@pytest.fixture(scope="module")
def nngeometry():
    return need("nngeometry")


def by_nngeometry(nngeometry, theirs, variant="regression", function=None):
    """Its "regression" is E[Σₖ ∇fₖ∇fₖᵀ] for any f: with the losses as f, the empirical Fisher."""
    options = {"variant": variant, "function": function or theirs.losses}
    return nngeometry.FIM(theirs.model, theirs.batches(), nngeometry.object.PMatDense, **options)


def test_nngeometry_matrices(nngeometry, ours, theirs):
    """`centering` gives Σ = C - ggᵀ, a mean. Its Gram matrix is GGᵀ WITHOUT 1/n: n times ours.

    It ADDS UP the Hessians of what `function` says of each batch: a mean needs a single batch, a sum needs 1/n.
    """
    examples, dense = theirs.batches(N), nngeometry.object.PMatDense
    assert_agrees(by_nngeometry(nngeometry, theirs).to_torch(), ours.C)
    backend = nngeometry.backend.TorchHooksJacobianBackend(theirs.model, theirs.losses, centering=True)
    assert_agrees(dense(generator=backend, examples=examples).to_torch(), ours.covariance)
    K = nngeometry.GramMatrix(theirs.model, examples, function=theirs.losses)
    assert_agrees(K.to_torch().reshape(N, N) / N, ours.K)
    total = theirs.torch.nn.CrossEntropyLoss(reduction="sum")
    H = nngeometry.Hessian(theirs.model, theirs.batches(), dense, function=total)
    assert_agrees(H.to_torch() / N, ours.H)
    F = by_nngeometry(nngeometry, theirs, "classif_logits", lambda x, y: theirs.model(x))
    # It divides by 1 - Σπ + eps, down to the least likely class: a dozen eps become that many times 1/π.
    tolerance = ROUNDING + 12 * float(np.finfo(float).eps) / ours.least
    assert_agrees(F.to_torch(), ours.F, tolerance)


def test_nngeometry_damped_step(nngeometry, ours, theirs):
    """`regul` is added to the mean, so it is our ε."""
    C = by_nngeometry(nngeometry, theirs)
    theirs.losses(theirs.x, theirs.y).mean().backward()
    g = nngeometry.object.PVector.from_model_grad(theirs.model)

    def vector(u):
        return nngeometry.object.PVector(g.layer_collection, vector_repr=u)

    assert_solves(C.solve(g, regul=DAMPING).to_torch(), ours, lambda u: C.vTMv(vector(u)))
    G = nngeometry.Jacobian(theirs.model, theirs.batches(N), function=theirs.losses)
    changes = G.jvp(vector(theirs.torch.tensor(ours.step.delta))).to_torch()[0]
    assert_agrees(changes, ours.step.predicted_changes, ours.condition * ROUNDING)


# curvlinops. Products with a matrix of a PyTorch loss whose `reduction` is a mean, over all batches.


@pytest.fixture(scope="module")
def curvlinops():
    return need("curvlinops")


def by_curvlinops(curvlinops, name, theirs):
    """The operator of this name; its columns are ravelled as the parameters are."""
    operator, loss = getattr(curvlinops, f"{name}LinearOperator"), theirs.torch.nn.CrossEntropyLoss()
    return operator(theirs.model, loss, list(theirs.model.parameters()), theirs.batches())


def test_curvlinops_matrices(curvlinops, ours, theirs):
    for name, expected in (("EF", ours.C), ("GGN", ours.gauss_newton), ("Hessian", ours.H)):
        matrix = by_curvlinops(curvlinops, name, theirs) @ theirs.torch.eye(ours.theta.size)
        assert_agrees(matrix, expected)


def test_curvlinops_damped_step(curvlinops, ours, theirs):
    """Damping is a multiple of the identity that one adds."""
    C, shapes = by_curvlinops(curvlinops, "EF", theirs), [each.shape for each in theirs.model.parameters()]
    g = theirs.flat(C.gradient_and_loss()[0])
    assert_agrees(g, ours.g)
    identity = need("curvlinops.examples").IdentityLinearOperator(shapes, theirs.x.device, theirs.x.dtype)
    # Where it stops by itself is meant for training.
    options = {"tolerance": STOP, "stop_updating_after": STOP, "eps": 1e-30, "max_iter": 500}
    u = curvlinops.CGInverseLinearOperator(C + DAMPING * identity, **options) @ g
    assert_solves(u, ours, lambda u: u @ (C @ u), ROUNDING + STOP)
