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

theirs_warn = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("x64"), theirs_warn]

N, HIDDEN, BATCH, DAMPING = 40, 6, 16, 1e-2  # 40 = 16 + 16 + 8: batches of unequal size
# A number here is a sum over 40 examples of what went through sums of 64, 6 and 10 terms: 120 roundings, and as many
# for tanh, softmax and the way back. Relative to the norm of the whole, for it is the norm that is compared.
EPS = float(np.finfo(float).eps)
ROUNDING = 240 * EPS


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
                "direction": ef.solve_primal(C, g, DAMPING),
            }

        found = jax.tree.map(np.asarray, answers(params, x, y))
    found = SimpleNamespace(params=params, x=x, y=y, **found)
    assert min(oracles.relative(found.C, found.F), oracles.relative(found.H, found.F)) > 0.5
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


def test_the_same_network(ours, theirs):
    """Ravelled in one order, layer by layer, W before b, W row by row; one backward pass for every example."""
    parameters, losses = list(theirs.model.parameters()), theirs.losses(theirs.x, theirs.y)
    np.testing.assert_array_equal(theirs.flat(parameters).detach(), ours.theta)
    assert all(layer["b"].all() for layer in ours.params)
    assert_agrees(losses, ours.losses)
    rows = [theirs.torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    assert_agrees(theirs.torch.stack([theirs.flat(row) for row in rows]), ours.G)


def test_nngeometry(ours, theirs):
    """Its Fishers are MEANS over the examples, also where these come in batches; `regul` is our ε.

    `centering` gives Σ = C - ggᵀ, a mean. Its Gram matrix is GGᵀ WITHOUT 1/n: n times ours.
    It ADDS UP the Hessians of what `function` says of each batch: a mean needs a single batch, a sum needs 1/n.
    """
    nngeometry, examples = need("nngeometry"), theirs.batches(N)
    dense, total = nngeometry.object.PMatDense, theirs.torch.nn.CrossEntropyLoss(reduction="sum")

    def mean(variant, function):
        return nngeometry.FIM(theirs.model, theirs.batches(), dense, variant=variant, function=function)

    # "regression" is E[Σₖ ∇fₖ∇fₖᵀ] for any f: with the losses as f, the empirical Fisher.
    C = mean("regression", theirs.losses)
    assert_agrees(C.to_torch(), ours.C)
    centred = nngeometry.backend.TorchHooksJacobianBackend(theirs.model, theirs.losses, centering=True)
    assert_agrees(dense(generator=centred, examples=examples).to_torch(), ours.covariance)
    K = nngeometry.GramMatrix(theirs.model, examples, function=theirs.losses)
    assert_agrees(K.to_torch().reshape(N, N) / N, ours.K)
    H = nngeometry.Hessian(theirs.model, theirs.batches(), dense, function=total)
    assert_agrees(H.to_torch() / N, ours.H)
    # It divides by 1 - Σπ + eps, down to the least likely class: a dozen eps become that many times 1/π.
    F = mean("classif_logits", lambda x, y: theirs.model(x))
    assert_agrees(F.to_torch(), ours.F, ROUNDING + 12 * EPS / ours.least)
    theirs.losses(theirs.x, theirs.y).mean().backward()
    u = C.solve(nngeometry.object.PVector.from_model_grad(theirs.model), regul=DAMPING).to_torch()
    assert_agrees(u, ours.direction, ROUNDING * (np.linalg.norm(ours.C, 2) / DAMPING + 1))


def test_curvlinops(ours, theirs):
    """Products with a matrix of a PyTorch loss whose `reduction` is a mean, over all batches."""
    curvlinops, loss = need("curvlinops"), theirs.torch.nn.CrossEntropyLoss()
    model = theirs.model, loss, list(theirs.model.parameters()), theirs.batches()
    for name, expected in (("EF", ours.C), ("GGN", ours.gauss_newton), ("Hessian", ours.H)):
        matrix = getattr(curvlinops, f"{name}LinearOperator")(*model)
        assert_agrees(matrix @ theirs.torch.eye(ours.theta.size), expected)
    assert_agrees(theirs.flat(curvlinops.EFLinearOperator(*model).gradient_and_loss()[0]), ours.g)
