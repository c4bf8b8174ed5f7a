"""The same matrices by others: PyTorch alone, NNGeometry, and curvlinops, on the same weights and digits.

Optional: `make test-peers` makes an environment that has them. Where a package is missing its tests skip, or fail if
EFISHER_TEACH_REQUIRE_PEERS is set. What each of them means by its matrix, a mean or a sum, is said where it is used.
"""

import importlib
import os
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree

import efisher_teach as ef
from efisher_teach.core import likelihoods
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.solve import solve_spectral, spectrum


def need(name):
    """A package, or a skip; with EFISHER_TEACH_REQUIRE_PEERS its absence is an error."""
    required = os.environ.get("EFISHER_TEACH_REQUIRE_PEERS")
    return importlib.import_module(name) if required else pytest.importorskip(name)


torch = need("torch")
torch.set_num_threads(1)  # the matrices are small, and on a busy machine threads wait for each other
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # theirs
]

N, HIDDEN, CLASSES, BATCH = 40, 6, 10, 16  # 40 = 16 + 16 + 8: batches of unequal size
DAMPING, BUDGET, DRAWS = 1e-2, 0.01, 50
# A number here is a sum over 40 examples of what went through sums of 64, 6 and 10 terms: 120 roundings, and as many
# for tanh, softmax and the way back. Relative to the norm of the whole, for it is the norm that is compared.
ROUNDING = 240 * float(np.finfo(float).eps)
STOP = 1e-13  # the residual at which an iterative solver ends, relative to ‖g‖


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
            sure = believed._replace(sample=lambda key, z: jnp.argmax(z))
            fisher = {"output_fn": output_fn, "likelihood": believed}
            draw = {"sampled": DRAWS, "key": jax.random.key(1)}
            return {
                "theta": ravel_pytree(params)[0],
                "probabilities": jax.vmap(problem.predict_fn, (None, 0))(params, x),
                "losses": ef.per_example_losses(loss_fn, params, x, y),
                "J": per_example_jacobians(output_fn, params, x),
                "G": G,
                "g": g,
                "C": C,
                "diagonal": jnp.diag(ef.empirical_fisher(G)),
                "covariance": ef.gradient_covariance(G),
                "K": ef.gram(G),
                "F": ef.fisher(loss_fn, params, x, **fisher),
                "sampled": ef.fisher(loss_fn, params, x, **fisher, **draw),
                "sure": ef.fisher(loss_fn, params, x, **(fisher | draw | {"likelihood": sure})),
                "gauss_newton": ef.gauss_newton(output_fn, believed.loss, params, x, y),
                "least_squares": ef.gauss_newton(
                    output_fn, likelihoods.gaussian.loss, params, x, jax.nn.one_hot(y, CLASSES)
                ),
                "H": ef.hessian(loss_fn, params, x, y),
                "directions": {
                    "primal": ef.solve_primal(C, g, DAMPING),
                    "dual": ef.solve_dual(G, DAMPING),
                    "spectral": solve_spectral(spectrum(G), DAMPING),
                },
                "step": ef.empirical_fisher_step(G, damping=DAMPING, budget=BUDGET),
            }

        found = jax.tree.map(np.asarray, answers(params, x, y))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(float)}
    found = SimpleNamespace(params=params, x=x, y=y, output_fn=output_fn, **found)
    assert min(oracles.relative(found.C, found.F), oracles.relative(found.H, found.F)) > 0.5
    found.condition = np.linalg.norm(found.C, 2) / DAMPING + 1  # of C + εI
    return found


class Theirs(NamedTuple):
    """The same network and digits in PyTorch."""

    model: torch.nn.Module
    x: torch.Tensor
    y: torch.Tensor

    def losses(self, x, y):
        """The loss of every example."""
        return torch.nn.functional.cross_entropy(self.model(x), y, reduction="none")

    def batches(self, size):
        """The examples, a few at a time."""
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(self.x, self.y), batch_size=size)


@pytest.fixture
def theirs(ours):
    """Weights are (out, in) here and there, so they are copied as they are."""
    layers = [torch.nn.Linear(64, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, CLASSES)]
    with torch.no_grad():
        for layer, values in zip((layers[0], layers[2]), ours.params, strict=True):
            layer.weight.copy_(torch.tensor(np.asarray(values["W"])))
            layer.bias.copy_(torch.tensor(np.asarray(values["b"])))
    x, y = torch.tensor(np.asarray(ours.x)), torch.tensor(np.asarray(ours.y, np.int64))
    return Theirs(torch.nn.Sequential(*layers), x, y)


@pytest.fixture(autouse=True)
def double():
    """float64 for all that PyTorch makes: layers, and the constants inside NNGeometry's Fisher."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def assert_agrees(theirs, ours, tolerance=ROUNDING):
    """Shape, precision and numbers."""
    theirs = theirs.detach()
    assert theirs.dtype == torch.float64
    assert theirs.shape == ours.shape
    assert oracles.relative(theirs, ours) < tolerance


def assert_solves(u, ours, cost, tolerance):
    """Their (C + εI)⁻¹g is ours by every way, and so is the step; `cost` is their ΔᵀCΔ. Residual first."""
    u = u.detach()
    left = ours.C @ u.numpy() + DAMPING * u.numpy() - ours.g
    # What is rounded is ‖C‖‖u‖, up to the condition times ‖g‖; u is wrong by the condition times what C and g are.
    close = ours.condition * tolerance
    assert np.linalg.norm(left) < close * np.linalg.norm(ours.g)
    for direction in ours.directions.values():
        assert_agrees(u, direction, close)
    delta = -((BUDGET / cost(u)) ** 0.5) * u
    assert_agrees(delta, ours.step.delta, close)
    np.testing.assert_allclose(cost(delta), ours.step.budget_spent, rtol=ROUNDING)


# PyTorch alone. cross_entropy of one example is its loss; of many, their MEAN, unless told otherwise.


def torch_outputs(theirs):
    """The logits of all digits as a function of the ravelled parameters, and these."""
    shapes = {name: each.shape for name, each in theirs.model.named_parameters()}

    def logits(theta):
        parts = theta.split([shape.numel() for shape in shapes.values()])
        parts = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return torch.func.functional_call(theirs.model, parts, (theirs.x,))

    return logits, torch.nn.utils.parameters_to_vector(theirs.model.parameters()).detach()


def torch_gradients(theirs, y):
    """One backward pass for every example."""
    rows = []
    for x, label in zip(theirs.x, y, strict=True):
        loss = torch.nn.functional.cross_entropy(theirs.model(x), label)
        rows.append(
            torch.cat([each.ravel() for each in torch.autograd.grad(loss, theirs.model.parameters())])
        )
    return torch.stack(rows)


def test_same_network(ours, theirs):
    """Ravelled in one order, layer by layer, W before b, W row by row; and the same losses."""
    _, theta = torch_outputs(theirs)
    np.testing.assert_array_equal(theta, ours.theta)
    assert all(layer["b"].all() for layer in ours.params)
    assert_agrees(theirs.losses(theirs.x, theirs.y), ours.losses)


def test_torch_empirical_fisher(ours, theirs):
    G = torch_gradients(theirs, theirs.y)
    assert_agrees(G, ours.G)
    assert_agrees(G.mean(dim=0), ours.g)
    assert_agrees(G.T @ G / N, ours.C)


def test_torch_fisher_and_hessian(ours, theirs):
    """E[Jᵀ(diag π - ππᵀ)J] is the Fisher and Gauss-Newton; the Hessian is that of the mean loss."""
    logits, theta = torch_outputs(theirs)
    J, pi = torch.func.jacrev(logits)(theta), torch.softmax(logits(theta), dim=1)
    assert_agrees(J, ours.J)
    F = torch.einsum("nkp,nkl,nlq->pq", J, torch.diag_embed(pi) - pi[:, :, None] * pi[:, None, :], J) / N
    assert_agrees(F, ours.F)
    assert_agrees(F, ours.gauss_newton)
    loss = lambda theta: torch.nn.functional.cross_entropy(logits(theta), theirs.y)  # noqa: E731
    assert_agrees(torch.func.hessian(loss)(theta), ours.H)


def test_torch_sampled_fisher(ours, theirs):
    """A model that always draws its likeliest class: its sampled Fisher is an empirical Fisher with those labels."""
    G = torch_gradients(theirs, theirs.model(theirs.x).argmax(dim=1))
    assert_agrees(G.T @ G / N, ours.sure)


# NNGeometry. Its Fishers are MEANS over the examples (1/n), also where these come in batches.


@pytest.fixture(scope="module")
def nngeometry():
    return need("nngeometry")


def nngeometry_empirical_fisher(nngeometry, theirs, representation, batch=N):
    """Its "regression" is E[Σₖ ∇fₖ∇fₖᵀ] for any f: with the losses as f, the empirical Fisher."""
    representation, options = getattr(nngeometry.object, representation), {"variant": "regression"}
    return nngeometry.FIM(
        theirs.model, theirs.batches(batch), representation, function=theirs.losses, **options
    )


@pytest.mark.parametrize("batch", [N, BATCH])
def test_nngeometry_empirical_fisher(nngeometry, batch, ours, theirs):
    assert_agrees(nngeometry_empirical_fisher(nngeometry, theirs, "PMatDense", batch).to_torch(), ours.C)
    assert_agrees(
        nngeometry_empirical_fisher(nngeometry, theirs, "PMatDiag", batch).get_diag(), ours.diagonal
    )


def test_nngeometry_covariance_and_gram(nngeometry, ours, theirs):
    """`centering` gives Σ = C - ggᵀ, a mean. Its Gram matrix is GGᵀ WITHOUT 1/n: n times ours."""
    backend = nngeometry.backend.TorchHooksJacobianBackend(theirs.model, theirs.losses, centering=True)
    centred = nngeometry.object.PMatDense(generator=backend, examples=theirs.batches(N))
    assert_agrees(centred.to_torch(), ours.covariance)
    K = nngeometry.GramMatrix(theirs.model, theirs.batches(N), function=theirs.losses)
    assert_agrees(K.to_torch().reshape(N, N) / N, ours.K)


FISHERS = {  # its name, our likelihood, and which outputs of the network are taken
    "categorical": ("classif_logits", likelihoods.categorical, slice(None)),
    "Gaussian": ("regression", likelihoods.gaussian, slice(None)),
    "Bernoulli": ("classif_binary_logits", likelihoods.bernoulli, 0),
}


@pytest.mark.parametrize("name", FISHERS)
def test_nngeometry_fisher(nngeometry, name, ours, theirs):
    """The expectation over the labels in closed form. Its Gaussian has variance 1, as ours: no factor 2."""
    variant, likelihood, taken = FISHERS[name]

    def output_fn(params, x):
        return ours.output_fn(params, x)[taken]

    def loss_fn(params, x, y):
        return likelihood.loss(output_fn(params, x), y)

    fisher = jax.jit(lambda *model: ef.fisher(loss_fn, *model, output_fn=output_fn, likelihood=likelihood))
    found = nngeometry.FIM(
        theirs.model,
        theirs.batches(BATCH),
        nngeometry.object.PMatDense,
        variant=variant,
        function=lambda x, y: theirs.model(x)[:, taken].reshape(len(x), -1),
    )
    # "classif_logits" divides by 1 - Σπ + eps, down to the least likely class: a dozen eps become that many times 1/π.
    tolerance = ROUNDING + 12 * float(np.finfo(float).eps) / ours.probabilities.min()
    assert_agrees(found.to_torch(), fisher(ours.params, ours.x), tolerance)


def test_nngeometry_hessian(nngeometry, ours, theirs):
    """It ADDS UP the Hessians of what `function` says of each batch: a mean needs a single batch, a sum needs 1/n."""
    loss, dense = torch.nn.functional.cross_entropy, nngeometry.object.PMatDense
    assert_agrees(
        nngeometry.Hessian(theirs.model, theirs.batches(N), dense, function=loss).to_torch(), ours.H
    )
    total = lambda logits, y: loss(logits, y, reduction="sum")  # noqa: E731
    H = nngeometry.Hessian(theirs.model, theirs.batches(BATCH), dense, function=total)
    assert_agrees(H.to_torch() / N, ours.H)


@pytest.mark.parametrize("representation", ["PMatDense", "PMatLowRank"])
def test_nngeometry_damped_step(nngeometry, representation, ours, theirs):
    """`regul` is added to the mean, so it is our ε. Dense is p × p; low rank takes the singular values of G/√n."""
    C = nngeometry_empirical_fisher(nngeometry, theirs, representation)
    theirs.losses(theirs.x, theirs.y).mean().backward()
    g = nngeometry.object.PVector.from_model_grad(theirs.model)
    assert_agrees(g.to_torch(), ours.g)

    def vector(u):
        return nngeometry.object.PVector(g.layer_collection, vector_repr=u)

    assert_solves(C.solve(g, regul=DAMPING).to_torch(), ours, lambda u: C.vTMv(vector(u)), ROUNDING)
    G = nngeometry.Jacobian(theirs.model, theirs.batches(N), function=theirs.losses)
    changes = G.jvp(vector(torch.tensor(ours.step.delta))).to_torch()[0]
    assert_agrees(changes, ours.step.predicted_changes, ours.condition * ROUNDING)


# curvlinops. Products with a matrix of a PyTorch loss, whose `reduction` says whether it is a MEAN or a SUM.


@pytest.fixture(scope="module")
def curvlinops():
    return need("curvlinops")


def curvlinops_matrix(curvlinops, name, theirs, loss, **options):
    """The operator of this name; its columns are ravelled as the parameters are."""
    operator = getattr(curvlinops, f"{name}LinearOperator")
    return operator(theirs.model, loss, list(theirs.model.parameters()), theirs.batches(BATCH), **options)


def dense(operator):
    return operator @ torch.eye(operator.shape[1])


@pytest.mark.parametrize("name", ["EF", "GGN", "Hessian"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_curvlinops_matrices(curvlinops, name, reduction, ours, theirs):
    """With "mean" it is ours, over all batches; with "sum" n times that, for the empirical Fisher too: Σ gᵢgᵢᵀ."""
    loss = torch.nn.CrossEntropyLoss(reduction=reduction)
    matrix = dense(curvlinops_matrix(curvlinops, name, theirs, loss))
    assert_agrees(
        matrix / {"mean": 1, "sum": N}[reduction], {"EF": ours.C, "GGN": ours.F, "Hessian": ours.H}[name]
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_curvlinops_least_squares(curvlinops, reduction, ours, theirs):
    """MSELoss lacks our ½, and its "mean" is over the outputs too: 2/10 of ours; its "sum" is 2n times ours."""
    targets = theirs._replace(y=torch.nn.functional.one_hot(theirs.y, CLASSES).double())
    matrix = dense(curvlinops_matrix(curvlinops, "GGN", targets, torch.nn.MSELoss(reduction=reduction)))
    assert_agrees(matrix / {"mean": 2 / CLASSES, "sum": 2 * N}[reduction], ours.least_squares)


@pytest.mark.parametrize("solver", ["CG", "LSMR"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_curvlinops_damped_step(curvlinops, solver, reduction, ours, theirs):
    """Damping is a multiple of the identity that one adds: ε beside a mean, nε beside a sum."""
    scale = {"mean": 1, "sum": N}[reduction]
    C = curvlinops_matrix(curvlinops, "EF", theirs, torch.nn.CrossEntropyLoss(reduction=reduction))
    g = torch.cat([each.ravel() for each in C.gradient_and_loss()[0]])
    assert_agrees(g / scale, ours.g)
    shapes = [each.shape for each in theirs.model.parameters()]
    identity = need("curvlinops.examples").IdentityLinearOperator(shapes, theirs.x.device, theirs.x.dtype)
    options = {  # where they stop by themselves is meant for training
        "CG": {"tolerance": STOP, "stop_updating_after": STOP, "eps": 1e-30, "max_iter": 500},
        "LSMR": {"atol": 1e-15, "btol": STOP, "conlim": 0, "maxiter": 500},
    }
    inverse = getattr(curvlinops, f"{solver}InverseLinearOperator")
    u = inverse(C + scale * DAMPING * identity, **options[solver]) @ g
    assert_solves(u, ours, lambda u: u @ (C @ u) / scale, ROUNDING + STOP)


# Labels that are drawn: three generators, each as near to the expectation as chance allows.


def standard_scores(sampled, ours):
    """(ΔᵀF̂Δ - ΔᵀFΔ)/its standard deviation, which is known: F̂ is a mean of n · DRAWS independent (gᵧᵀΔ)²."""
    delta, pi = np.random.default_rng(2).normal(size=(8, ours.theta.size)), ours.probabilities
    along = np.einsum("nkp,mp->mnk", ours.J, delta)
    squares = (along - np.sum(pi * along, axis=2, keepdims=True)) ** 2  # for label k: g = Jᵀ(π - eₖ)
    mean = np.sum(pi * squares, axis=2)
    variance = np.sum(pi * squares**2, axis=2) - mean**2
    found = np.einsum("mp,pq,mq->m", delta, np.asarray(sampled), delta)
    return (found - mean.mean(axis=1)) / np.sqrt(variance.sum(axis=1) / DRAWS) * N


def test_sampled_fishers(nngeometry, curvlinops, ours, theirs):
    """All are means, over DRAWS labels a digit and over the digits. The observed labels do not pass for drawn ones."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        form = nngeometry.object.PMatDense
        theirs_by_hooks = nngeometry.FIM_MonteCarlo(theirs.model, theirs.batches(BATCH), form, trials=DRAWS)
    options = {"mc_samples": DRAWS, "seed": 3}
    theirs_by_products = curvlinops_matrix(
        curvlinops, "FisherMC", theirs, torch.nn.CrossEntropyLoss(), **options
    )
    np.testing.assert_allclose(standard_scores(ours.F, ours), 0, atol=1e-10)
    for sampled in (ours.sampled, theirs_by_hooks.to_torch(), dense(theirs_by_products)):
        # A score beyond 5 has a chance of 6e-7; all eight within 0.1 would be the expectation itself, or nearly so.
        assert 0.1 < np.abs(standard_scores(sampled, ours)).max() < 5
    assert np.abs(standard_scores(ours.C, ours)).max() > 10
