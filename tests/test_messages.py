"""Every refusal of the library, in one table: which argument, what it must be, what it was, what to do.

`bare` goes round jaxtyping's hook, which would reject some of this before the library sees it.
"""

import ast
import inspect
import re
import tempfile
import traceback
from functools import cache
from pathlib import Path

import gallery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh
from oracles import bare
from oracles import line as loss
from scipy import sparse

import efisher_teach as ef
from efisher_teach import coordinates as charts
from efisher_teach import errors, scenes
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.likelihoods import bernoulli, gaussian
from efisher_teach.core.precondition import precondition
from efisher_teach.core.solve import solve_spectral, spectrum
from efisher_teach.figures.marks import show
from efisher_teach.network.devices import split_examples

PACKAGE = Path(ef.__file__).parent
NAN, INF = float("nan"), float("inf")
G = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
C, g, EYE, SINGULAR = ef.empirical_fisher(G), ef.mean_gradient(G), jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0]))
x, y, theta = jnp.ones((3, 2)), jnp.ones(3), jnp.array([0.5, 1.0])
column, at = jnp.array([[1.0], [0.0], [2.0]]), jnp.ones(1)
step, path, two, targeted = ef.empirical_fisher_step, ef.damping_path, ef.two_budget_step, ef.targeted_step
ratios, make, scale_by = ef.generalised_eigenvalues, ef.make_update, ef.scale_by_empirical_fisher
BEST, COSTS, IMPROVE = scenes.the_best_step, scenes.what_a_step_costs, scenes.should_all_improve
PULLS, RACE = scenes.every_example_pulls, scenes.a_real_network
TWO, NETWORK, (RIVALS, OURS) = gallery.problem("two"), gallery.problem("network"), gallery.runs()
BEHIND, RARE, WRONG = scenes.rare_and_wrong, *gallery.left_behind()
TEN = (lambda small: small._replace(x=small.x[:10], y=small.y[:10]))(gallery.problem("small network"))
THREE, FEW, UNLIKELY = ef.logistic_regression(p=3), ef.logistic_regression(3), TWO._replace(likelihood=None)
FALSE = charts.elementwise("false", lambda psi: psi / 2, lambda theta: theta, "all θ")
# One number for two parameters: J (2, 1) has no full row rank, however regular. And θ = √ψ: none is below ψ = 0.
THIN = charts.Coordinates("thin", lambda psi: jnp.stack([psi[0], 2 * psi[0]]), lambda theta: theta[:1])
ROOT = charts.elementwise("root", jnp.sqrt, jnp.square, "all θ > 0")
LINE, ONE_ROW = ef.linear_regression(), ef.linear_regression(1)


def averaged(theta, x, y):
    return jax.lax.pmean(loss(theta, x, y), "batch")


def decayed(theta, x, y):
    """Too far from a likelihood by no more than its weight decay."""
    return bernoulli.loss(theta @ x, y) + 0.01 * theta @ theta


def root(theta, x, *_):
    """√0 is 0, but has no derivative."""
    return jnp.sqrt(theta[0] * x[0])


def power(z, *_):
    """|z|^1.5 has no second derivative at 0."""
    return jnp.sum(jnp.abs(z) ** 1.5)


def single(*example):
    return loss(*example).astype(jnp.float32)


class Unhashable:
    __hash__ = None
    __call__ = staticmethod(loss)


def differentiated(G):
    return jax.grad(lambda G: step(G, budget=0.1).delta.sum())(G)


def fisher(output_fn, params, x, loss_fn=None, **options):
    """Of the right loss, unless another one is given."""
    loss_fn = loss_fn or (lambda params, x, y: bernoulli.loss(output_fn(params, x), y))
    return bare(ef.fisher)(loss_fn, params, x, output_fn=output_fn, likelihood=bernoulli, **options)


def update(params, x, y, **options):
    made = make(loss, damping=0.1, budget=0.1)
    return bare(type(made).__call__)(made, params, x, y, **options)


def remembering(params):
    update = make(loss, damping=0.1, budget=0.1, memory=0.5)
    return update(update.start(theta)._replace(params=params), x, y)


def init(params):
    return scale_by(0.1).init(params)


def natural(params, x, y):
    return ef.make_natural_update(jnp.dot, gaussian, damping=0.1, budget=0.1)(params, x, y)


def remember(updates):
    transformation = scale_by(0.1, decay=0.5, memory=2)
    return transformation.update(updates, transformation.init(theta))


def scale(updates):
    transformation = scale_by(0.1)
    return transformation.update(updates, transformation.init(theta))


def go_on(checkpoint):
    """From a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.npz"
        file.write_bytes(checkpoint)
        bare(ef.fit)(**RIGHT[ef.fit], checkpoint=file)


def in_chart(coordinates, params, **rest):
    return {"coordinates": coordinates, "params": params, **rest}


def written_in(chart="exp", **changes):
    return scenes.other_coordinates(TWO._replace(**changes), chart)


examples = {"loss_fn": loss, "params": theta, "x": x, "y": y}
RIGHT = {  # what a call is given where a row says nothing else
    **{call: {"G": G} for call in (ef.mean_gradient, ef.gradient_covariance, ef.empirical_fisher)},
    **{call: {"G": G} for call in (ef.gram, ef.solve_dual, spectrum)},
    step: {"G": G, "budget": 0.1},
    path: {"G": G, "dampings": y, "budget": 0.1},
    two: {"G": G, "budget": 0.1, "radius": 1.0},
    targeted: {"G": G, "target": y},
    ef.solve_primal: {"C": C, "g": g},
    ef.solve_gram: {"K": C},
    solve_spectral: {"spectrum": spectrum(G)},
    precondition: {"A": C, "g": g},
    ef.ledger: examples | {"budget": 0.01},
    **dict.fromkeys([ef.per_example_losses, ef.per_example_gradients, ef.hessian, ef.loss_gram], examples),
    per_example_jacobians: {"output_fn": root, "params": at, "x": column},
    ef.weighted_gradient: examples | {"weights": y},
    ef.loss_changes: {"loss_fn": lambda t, x, y: jnp.exp(t @ x) - y, "params": at, "x": column, "y": y}
    | {"delta": at},
    ef.gauss_newton: {"output_fn": jnp.multiply, "output_loss": gaussian.loss, "params": at}
    | {"x": column, "y": column},
    fisher: {"output_fn": jnp.dot, "params": theta, "x": x},
    ef.quadratic_form: {"A": C, "delta": theta},
    ratios: {"A": C, "B": C},
    charts.jacobian: {"coordinates": charts.exponential},
    ef.pull_back: {"G": G, "J": EYE},
    ef.push_forward: {"J": C, "delta": g},
    charts.affine: {"A": EYE},
    ef.step_in: {"coordinates": charts.exponential, "params": theta, "G": G, "budget": 0.1},
    ef.descend: {"problem": LINE, "steps": 1},
    make: {"loss_fn": loss, "damping": 0.1, "budget": 0.1},
    **{call: {"params": theta, "x": x, "y": y} for call in (update, natural)},
    scale_by: {"damping": 0.1, "decay": 0.5, "memory": 2},
    ef.fit: {"update": update, "params": theta, "x": x, "y": y, "steps": 1, "progress": False},
    split_examples: {"mesh": AbstractMesh((8,), ("examples",)), "x": x, "y": y},
    show: {"points": np.ones((2, 2))},
    BEHIND: {"levels": gallery.LEVELS, "dampings": gallery.EPSILONS, "rare": RARE, "wrong": WRONG},
    RACE: {"rivals": RIVALS, "ours": OURS, "first": "c"},
    **{scene: {"problem": TWO} for scene in (scenes.batches_and_memory, BEST, scenes.proof, IMPROVE)},
}


def takers(*names):
    """Who takes an argument of one of these names, and the name."""
    return [(call, name) for call in RIGHT for name in names if name in inspect.signature(call).parameters]


TAKE_G = [*(call for call, _ in takers("G")), scenes.your_model]
TAKE_EXAMPLES = [call for call, _ in takers("y")]
TAKE_DATA = [ef.per_example_losses, ef.per_example_gradients, ef.weighted_gradient, ef.hessian, ef.loss_gram]
TAKE_DATA += [ef.gauss_newton, fisher, per_example_jacobians, ef.fit, ef.ledger, update]
TAKE_PARAMS = [*TAKE_DATA[1:8], ef.loss_changes, ef.ledger, update, init]
RATED = [step, ef.step_in, make]
POSITIVES = [*takers("budget", "radius"), (ef.descend, "learning_rate"), (ef.linear_regression, "noise")]
POSITIVES += [(ef.logistic_regression, "separation"), (scenes.vector_field, "noise")]
COUNTS = [(call, size) for call in (ef.linear_regression, ef.logistic_regression) for size in ("n", "p")]
COUNTS += [*takers("chunk_size", "steps"), (scale_by, "memory"), (fisher, "sampled")]
SYMMETRIC = takers("B", "C", "K", "curvature")
SYMMETRIC += [(call, "A") for call in (ef.quadratic_form, ratios, precondition)]
REALS = takers("g", "J", "K", "delta", "direction", "psi", "shift", "weights")
REALS += [(ef.gram, "G"), (step, "damping"), (step, "budget"), (charts.affine, "A"), (update, "weights")]
REALS += [(targeted, "target"), (ef.solve_gram, "target")]
ROOTS = [("root", 0.0), ("diagonal", 5.0), ("diagonal root", 0.0), ("root", 5.0)]
# Bad values, and what is said of them: {} is the value, {shape} its shape.
NEGATIVE, NOT_POSITIVE, NOT_COUNTS = [-1.0, -1e-9, NAN, INF], [0.0, -0.5, NAN, INF], [0, -2, 1.5, True]
SQUARES, SKEW, UNKNOWN = [x, y, jnp.ones((0, 0))], [C.at[0, 1].add(0.5)], [C.at[0, 0].set(NAN)]
MOST, KEY = jnp.full((8, 2), NAN).at[0].set(1), {"key": jax.random.key(0)}
OUTSIDE = [("square", in_chart(charts.square, -theta)), ("weight norm", in_chart(charts.weight_norm, 0 * g))]
OUTSIDE += [("identity", in_chart(charts.identity, NAN * g)), ("thin", in_chart(THIN, g / g))]
OUTSIDE += [("false", in_chart(FALSE, theta))]
EDGES = [("polar", in_chart(charts.polar, 0 * g)), ("thin", in_chart(THIN, theta))]
EDGES += [("exponential", in_chart(charts.exponential, theta.at[0].set(0)))]
NEARLY, RATE = jnp.diag(jnp.array([1e-14, 1e-20])), {"budget": None, "learning_rate": 0.1}
NEEDED = [(scenes.damping, 36), (IMPROVE, 36), (scenes.bug_hunt, 32), (PULLS, 4)]  # examples
TOO_FAR = [RATE | in_chart(ROOT, theta, learning_rate=1e3)]
TOO_FAR += [RATE | in_chart(charts.logit, theta / 2, learning_rate=3e38)]
BATCH, LEAFLESS = {"output_fn": root, "params": at, "x": column}, {"params": {}, "loss_fn": lambda *_: y[0]}
# Also with a damping that rounding cannot see; and with one that would lift the matrix above 0.
INDEFINITE = [{"A": 5 * SINGULAR - 2 * EYE, "form": form, "damping": damping} for form, damping in ROOTS]
OUTSIDE_ITS_RANGE = [{"A": SINGULAR, "g": g / g, "form": form, "damping": 1e-12} for form, _ in ROOTS]
OUTSIDE_ITS_RANGE += [{"A": SINGULAR, "g": g / g, "form": form} for form in ("full", "root")]
ZERO, POSITIVE = "finite and at least 0; got ", "finite and greater than 0; got {}."
COUNT, ONE = "a whole number of at least 1; got {}.", "one number; got shape (3,). For many, use"
ARRAY, SQUARE = "numbers in an array; got ", "square (p, p); got {shape}. "
REAL = ARRAY + "str of dtype <U4. Encode text"
ROWS = "2-D, one gradient a row (n, p); got {shape}. Use per_example_gradients("
FIRST, ROW = (f"finite; got NaN or infinity in 1 of {n} rows: {n - 2}. " for n in (2, 3))
FINITE = "such that the result is finite; got NaN or infinity in it. "
SQUARED = "between 3e-16 and 8e+18, as it is squared; got "
PER_EXAMPLE = "per-example gradients, for each array (n, …), of 2 parameters in all; got"
BEYOND = "The step leads out of the chart: make it smaller"
LOST = "such that the step is not lost; got a gradient that underflows to a step of 0. "
EXAMPLES = "arrays with one example a row, as many in y as in x; got shape "
EMPTY, SCALE = "non-empty; got 0 examples. Give at least", "Its scale leaves no room in this precision"
NUMBER = "a function that returns one number, the loss of one example; got "
RANGE = "when `damping` is 0; got a part g⊥ of length 1 (of 1.41) outside it. Along that part the loss could"
LIMITS = "given, or radius, or both; or learning_rate alone; got "
FLOATS = "a pytree of floating-point arrays; got "
MESH = "a jax.sharding.Mesh with axes named 'examples' or 'parameters'; got "
PLANE = "one with params of shape (2,); got shape (3,). E.g. breast_cancer(2)."
VECTOR = "one with params of shape (p,), p ≥ 2; got (). E.g. breast_cancer()."
TABLE = [  # the call, its argument, bad values (or dicts of several arguments), what comes after "must be"
    *[(call, "G", [y, jnp.ones((2, 3, 4))], ROWS) for call in TAKE_G],
    (ef.gram, "G", [jnp.ones((0, 2)), jnp.ones((3, 0))], "non-empty; got {shape}. Give at least one example"),
    (ef.gram, "G", [G.at[1, 0].set(NAN), G.at[1, 1].set(-INF)], ROW + "Look at these examples"),
    (ef.gram, "G", [MOST], "finite; got NaN or infinity in 7 of 8 rows: 1, 2, 3, 4, 5, …. Look at these"),
    (differentiated, "G", [G], "held constant: steps and solves go through singular vectors"),
    *[(call, name, NEGATIVE, ZERO + "{}. Use 0 for the pseudo-inverse") for call, name in takers("damping")],
    (solve_spectral, "damping", [{"dampings": jnp.array([1, bad])} for bad in NEGATIVE], ZERO + "["),
    (path, "damping", [{"dampings": jnp.array([1, bad])} for bad in NEGATIVE], ZERO + "["),
    (path, "dampings", [y[0], x, y[:0]], "1-D and non-empty; got {shape}. Use e.g. jnp.logspace(-6, 2, 50)."),
    *[(call, argument, NOT_POSITIVE, POSITIVE) for call, argument in POSITIVES],
    *[(call, argument, NOT_COUNTS, COUNT) for call, argument in COUNTS],
    *[(call, argument, ["text"], REAL) for call, argument in REALS],
    *[(call, name, [y], ONE) for call in (step, make) for name in ("damping", "budget")],
    (scale_by, "damping", [y], ONE),
    *[(call, "learning_rate", [RATE | {"learning_rate": y}], ONE) for call in RATED],
    *[(call, "learning_rate", [RATE | {"learning_rate": NAN}], POSITIVE) for call in RATED],
    *[(call, "budget", [{"learning_rate": 0.1}], "given; got both. A budget c fixes") for call in RATED[:2]],
    *[(call, "budget", [{"budget": None}], "given; got none. A budget c fixes") for call in RATED[:2]],
    (make, "budget", [{"learning_rate": 0.1}], LIMITS + "budget, learning_rate. A budget bounds"),
    (make, "budget", [RATE | {"radius": 0.1}], LIMITS + "radius, learning_rate. A budget bounds"),
    (make, "budget", [{"budget": None}], LIMITS + "none. A budget bounds the mean squared loss"),
    *[(call, "G", [1e20 * G, 1e-25 * G], SQUARED) for call in TAKE_G],
    (step, "G", [{"G": NEARLY, "budget": 3e38}], FINITE + SCALE),
    (targeted, "G", [{"G": NEARLY, "target": jnp.ones(2), "budget": 3e38}], FINITE + SCALE),
    (path, "G", [{"G": NEARLY, "dampings": jnp.zeros(1), "budget": 3e38}], FINITE + SCALE),
    (two, "G", [{"G": NEARLY, "budget": 3e38, "radius": 3e38}], FINITE + SCALE),
    *[(call, "G", [RATE | {"G": 1e15 * G, "learning_rate": 1e-36}], LOST + SCALE) for call in RATED[:2]],
    (two, "G", [{"G": 1e15 * G, "radius": 1.2e-38}], LOST + SCALE),
    (ef.step_in, "budget", [{"G": -G, "budget": 1e6}], FINITE + BEYOND),
    (ef.step_in, "learning_rate", TOO_FAR, FINITE + BEYOND),
    # Parameters, examples, and the losses of each.
    *[(call, "params", [jnp.ones(2, bool)], FLOATS + "bool at the root. Only these") for call in TAKE_PARAMS],
    (init, "params", [{"params": {"a": theta, "b": 0}}], FLOATS + "int64 at ['b']. Write 0.0"),
    (init, "params", [{"params": {"b": jax.random.key(0)}}], FLOATS + "key<fry> at ['b']. Only these"),
    (init, "params", [np.full(2, np.longdouble(1) / 3)], ARRAY + "ndarray of dtype float128."),
    (init, "params", [{"params": {"b": jnp.tanh}}], FLOATS + "PjitFunction at ['b']. Only these"),
    (init, "params", [theta + 1j], FLOATS + "complex64 at the root. Keep real and imaginary parts as two"),
    *[(call, "x", [np.array(["a"] * 3)], ARRAY + "ndarray of dtype <U1.") for call in TAKE_DATA],
    (ef.per_example_losses, "x", [[["word"] * 5] * 20_000, sparse.eye(3), np.zeros(3, "M8[D]")], ARRAY),
    (ef.gram, "G", [[[1.0], [1.0, 2.0]]], ARRAY + "list (setting an array element"),
    (ef.gram, "G", [np.array([["1"]], object)], ARRAY + "ndarray of dtype object. Encode"),
    (ef.gram, "G", [np.ma.array(np.ones((2, 2)), mask=np.eye(2))], "without masked entries; got 2 masked"),
    (ef.gram, "G", [np.full((2, 2), 2**40)], "within the range of int32; got int64 up to 1099511627776."),
    (ef.per_example_losses, "loss_fn", [averaged], "a function of one example; got one that uses a"),
    *[(call, "x and y", [{"y": jnp.ones(4)}], EXAMPLES + "(3, ") for call in TAKE_EXAMPLES],
    (ef.hessian, "x and y", [{"x": x[0], "y": y[0]}], EXAMPLES + "(2,) and shape (). For one example, use"),
    (ef.hessian, "x and y", [{"x": x[:0], "y": y[:0]}], EMPTY),
    (per_example_jacobians, "x and y", [{"x": column[:0]}], EMPTY),
    (fisher, "x and y", [{"x": y[0]}], EXAMPLES + "(). For one"),
    (ef.hessian, "loss_fn", [lambda params, x, y: x * params], NUMBER + "shape (2,). It gets ONE example"),
    (ef.hessian, "loss_fn", [lambda *example: (loss(*example), 1)], NUMBER + "tuple. It gets ONE example"),
    (ef.hessian, "loss_fn", [lambda params, *_: power(0 * params)], "finite; got NaN or infinity in 2 of 2"),
    (ef.per_example_gradients, "loss_fn", [{"loss_fn": root, "x": column}], ROW + "Its gradient overflows"),
    (ef.per_example_gradients, "chunk_size", [0], "a whole number of at least 1; got 0. For all at once,"),
    (ef.weighted_gradient, "weights", [g, x, y[0]], "of shape (3,), one an example; got {shape}. Ravel it."),
    (per_example_jacobians, "output_fn", [root], ROW + "Its derivative overflows or is undefined"),
    (ef.loss_changes, "delta", [g, y[0]], "of shape (1,), one number a parameter; got {shape}. Use"),
    (ef.loss_changes, "delta", [1000 * at], "finite; got NaN or infinity in 2 of 3 rows: 0, 2. It leads"),
    # Matrices.
    (fisher, "output_fn", [BATCH | {"output_fn": lambda t, x: t[0] / x[0]}], ROW + "The model overflows"),
    (fisher, "loss_fn", [BATCH], ROW + "Its gradient overflows"),
    (fisher, "loss_fn", [{"output_fn": lambda t, x: 1e25 * t @ x, "params": 0 * theta}], FINITE + SCALE),
    (fisher, "loss_fn", [loss, decayed, KEY | {"loss_fn": decayed, "sampled": 3}], "the negative log-lik"),
    (fisher, "key", [{"sampled": 3}], "given where labels are sampled; got None. Use e.g."),
    (ef.gauss_newton, "output_loss", [{"output_loss": power, "y": y}], ROW + "Its second derivative is"),
    (ef.gauss_newton, "output_fn", [lambda t, x: 1e25 * t * x], FINITE + SCALE),
    *[(call, argument, SQUARES, SQUARE + "Use empirical_fisher(G)") for call, argument in SYMMETRIC],
    *[(call, name, SKEW, f"symmetric; got |{name} - {name}ᵀ| up to 0.5. ") for call, name in SYMMETRIC],
    *[(call, argument, UNKNOWN, FIRST + "It was computed from") for call, argument in SYMMETRIC],
    (ef.quadratic_form, "delta", [y, x[:, :1], y[0]], "of shape (…, 2), as A is (2, 2); got {shape}. One"),
    (ef.quadratic_form, "delta", [{"A": 1e30 * (2 * EYE - 1), "delta": 1e10 * g}], FINITE + SCALE),
    (ratios, "A", [{"A": 1e38 * C, "B": 1e-5 * EYE}], FINITE + SCALE),
    (ratios, "B", [jnp.eye(3)], "of the shape of A, (2, 2); got {shape}. Use the same parameters."),
    (ratios, "B", [EYE.at[1, 1].set(-2)], "positive definite; got eigenvalues from -2 to 1. Some direction"),
    (ratios, "B", [SINGULAR, 0 * EYE, EYE.at[1, 1].set(1e-8)], "positive definite; got eigenvalues from "),
    # Solving, and the proof.
    (ef.solve_primal, "g", [y], "of shape (2,), as C is (2, 2); got shape (3,). Use mean_gradient(G)"),
    (ef.solve_primal, "g", [g.at[0].set(INF)], FIRST + "It was computed from gradients"),
    (ef.solve_primal, "g", [{"C": SINGULAR, "g": g / g}], "lie in the range of `C` " + RANGE),
    (precondition, "g", OUTSIDE_ITS_RANGE, "lie in the range of `A` " + RANGE),
    (ef.solve_primal, "C", [{"C": 1e-30 * EYE, "g": 1e10 * g}], FINITE + SCALE),
    (ef.solve_gram, "K", [{"K": 1e-30 * EYE, "target": 1e10 * g}], FINITE + SCALE),
    (ef.solve_gram, "target", [y], "of shape (2,), one number an example; got shape (3,). Ask every example"),
    (targeted, "target", [g, y[:, None]], "of shape (3,), one number an example; got {shape}. Ask every"),
    (targeted, "target", [y.at[1].set(NAN)], ROW + "Ask these examples for a finite decrease."),
    (precondition, "form", ["adam"], "one of 'full', 'diagonal', 'root', 'diagonal root', 'none'; got"),
    (precondition, "A", [{"A": 1e-30 * EYE, "g": 1e30 * g, "form": "root"}], FINITE + SCALE),
    (precondition, "A", INDEFINITE, "positive semi-definite here; got -2 among its eigenvalues"),
    (ef.ledger, "break_line", ["2", "metric"], "one of 'one loss', 'mean loss', "),
    (ef.ledger, "direction", [y], "of shape (2,), one number a parameter; got shape (3,). Ravel it."),
    (ef.ledger, "direction", [g.at[0].set(INF)], FIRST + "Every entry is a number."),
    (ef.ledger, "C", [jnp.eye(3)], "of shape (2, 2), as params are; got shape (3, 3). Use the same"),
    (ef.ledger, "C", [-EYE], "positive semi-definite here; got -1 among its eigenvalues"),
    (ef.ledger, "C", [0 * EYE], "a matrix with g in its range, at least in part; got gᵀC⁺g = 0. In this"),
    (ef.ledger, "params", [theta - 0.25], "where the mean gradient is not 0; got g = 0. There is nothing to"),
    (ef.ledger, "loss_fn", [single], "a function that computes in float64 here; got float32. Its numbers"),
    # Problems.
    (ef.digits, "hidden", [{"hidden": (8, 0)}], "a whole number of at least 1; got 0."),
    (ef.digits, "side", [{"side": 5}], "8 or 4; got 5. 8 is every pixel, 4 takes the means of four."),
    (ef.breast_cancer, "features", [1, 3, "all", (), ("mean radius", "colour")], "2, None, or a tuple of"),
    (ef.descend, "learning_rate", [{"steps": 99, "learning_rate": 99.0}], "finite; got NaN or infinity in 1"),
    # Charts.
    (charts.jacobian, "psi", [1000 * at], "a regular point of the chart 'exponential'; got a Jacobian that"),
    (ef.pull_back, "J", [x, y, G[None]], "of shape (2, q), as G is (3, 2); got {shape}. Use jacobian("),
    (ef.push_forward, "J", [g, y[0]], "2-D (p, q); got {shape}. Use jacobian(coordinates, psi)."),
    (ef.push_forward, "delta", [y, x, y[0]], "of shape (2,), as J is (2, 2); got {shape}. Use a step that"),
    (charts.affine, "A", SQUARES, SQUARE + "It maps p numbers to the p parameters."),
    (charts.affine, "A", UNKNOWN, FIRST + "Every entry is a number."),
    (charts.affine, "A", [x[:2], 0 * EYE, EYE.at[1, 1].set(1e-8)], "invertible; got singular values from "),
    (charts.affine, "shift", [y], "a number, or of shape (2,) as A has 2 rows; got shape (3,). Ravel it."),
    (charts.affine, "shift", [NAN], "finite; got NaN or infinity in 1 of 1 rows: 0. Every entry is a"),
    (ef.step_in, "params", [1j * theta], "real; got dtype complex64. Keep real"),
    *[(ef.step_in, "params", [there], f"inside the chart '{name}' (") for name, there in OUTSIDE],
    *[(ef.step_in, "params", [at], f"at a regular point of the chart '{name}' (") for name, at in EDGES],
    (ef.step_in, "params", [-theta], "inside the chart 'exponential' (θ > 0, as θ = exp ψ); got [-0.5 -1."),
    (ef.step_in, "params", [in_chart(charts.polar, y)], "as many numbers as the chart"),
    (ef.step_in, "params", [in_chart(charts.affine(EYE), y)], "what the chart 'affine' ("),
    (ef.step_in, "G", [jnp.ones((4, 3))], "of shape (n, 2), as params are; got shape (4, 3). Use"),
    (ef.step_in, "curvature", [jnp.eye(3)], "of shape (2, 2), as params are; got shape (3, 3). It is a"),
    # The network.
    *[(call, "loss_fn", [Unhashable()], "hashable, as it is compiled") for call in (make, ef.loss_gram)],
    (make, "mesh", [Mesh(np.array(jax.devices()[:1]), "z")], MESH + "axes ('z',). Use e.g. jax.make_mesh("),
    *[(call, name, ["half"], "one of None, 'largest', 'mean'") for call, name in takers("relative_to")],
    (make, "measure", [{"measure": False, "accept": 0.0}], "True beside accept or steer; got False. Leave"),
    (make, "memory", [-0.1, 1.0, NAN], "at least 0 and below 1; got {}. Use e.g. 0.9, or 0"),
    (make, "steer", [RATE | {"steer": bad} for bad in (0.0, 1.0, NAN)], "between 0 and 1, for a"),
    (make, "steer", [0.5], "beside a learning_rate; got budget. An enforced budget"),
    (update, "weights", [y[:2]], "of shape (3,), one number an example; got {shape}. Use 0 for padding."),
    (update, "weights", [-y, 0 * y], "at least 0, and not all of them 0; got "),
    (update, "weights", [NAN * y], "finite; got NaN or infinity in 3 of 3 rows"),
    (remembering, "params", [jnp.ones(2, bool)], FLOATS + "bool at the root. Only these"),
    (update, "target", [y[:2]], "of shape (3,), one number an example; got {shape}. Ask every"),
    (update, "key", [jax.random.key(0)], "left out; got a key. It goes with"),
    (update, "params", [make(loss, damping=0.1, budget=0.1).start(theta)], "parameters; got Remembered."),
    (make, "mesh", [[1]], MESH + "list. Use"),
    (split_examples, "x and y", [{}], "a multiple of 8 examples, the devices of the mesh; got 3. Leave out"),
    (ef.loss_gram, "x and y", [{"x": np.zeros((2**20, 2)), "y": np.zeros(2**20)}], "few enough that K"),
    (ef.loss_gram, "params", [LEAFLESS], FLOATS + "no array at all. Give at least one."),
    (ef.loss_gram, "loss_fn", [{"loss_fn": root, "x": column}], ROW + "Its value or its gradient overflows"),
    (scale_by, "decay", [-0.1, 1.0, NAN], "at least 0 and below 1; got {}. Use e.g. 0.9"),
    (scale_by, "memory", [None], "a number of rows where decay is given; got None. It is how many past"),
    (scale, "updates", [theta, x[:0], jnp.ones((4, 3)), jnp.ones((4, 2, 2))], PER_EXAMPLE),
    (remember, "updates", [G], "of at most 2 examples, the memory; got 3 examples. Make memory a few"),
    (ef.fit, "key", [{"batch_size": 2}], "a jax.random.key where the update needs one, or batch_size is"),
    (ef.fit, "x", [{"x": bad, "y": None} for bad in ([], 3, [1])], "an iterable of batches (x, y), as"),
    (ef.fit, "batch_size", [KEY | {"y": None, "batch_size": 3}], "left out without y; got 3."),
    (ef.fit, "batch_size", [KEY | {"batch_size": bad} for bad in NOT_COUNTS], COUNT),
    (ef.fit, "batch_size", [KEY | {"batch_size": 8}], "at most 3, the number of examples; got 8. "),
    (ef.fit, "checkpoint", ["no/run.npz"], "in a folder that exists; got {}. Make the folder first."),
    (go_on, "checkpoint", [b"", b"text"], "a file of these parameters: float32[2], float32[2], "),
    # Figures.
    (show, "artist", ["line"], "that of a mark; got 'line'. Declare it in the scene's marks."),
    *[(scene, "budget", [0.05], "at most 0.04; got 0.05. Beyond it the") for scene in (BEST, scenes.proof)],
    *[(scene, "problem", [THREE], PLANE) for scene in (BEST, COSTS, PULLS, scenes.bug_hunt)],
    *[(scene, "problem", [NETWORK], VECTOR) for scene in (scenes.damping, scenes.two_budgets)],
    *[(scene, "problem", [FEW], f"one with {n} examples; got 3. Make n larger.") for scene, n in NEEDED],
    (COSTS, "problem", [ONE_ROW], "one where every step costs something; got eigenvalues of"),
    (COSTS, "loss_fn", [{"problem": TWO._replace(x=TWO.x / 0)}], "finite; got NaN or"),
    (scenes.bug_hunt, "problem", [UNLIKELY], "one with an output_fn and a likelihood;"),
    (scenes.damping, "problem", [TWO._replace(x_test=None)], "one with held-out examples; got x_test or"),
    (scenes.two_budgets, "problem", [FEW], "such that g is no eigenvector of C; got R from"),
    (scenes.solid, "problem", [TWO], "one with params of shape (3,); got shape (2,). E.g."),
    (scenes.fisher_hessian, "problem", [UNLIKELY], "one of two classes; got the likelihood None. E.g."),
    (IMPROVE, "problem", [NETWORK], "one with params of shape (p,); got (). E.g. breast_cancer"),
    (IMPROVE, "problem", [LINE], "one with labels 0 and 1 and a likelihood; got labels ["),
    (IMPROVE, "imbalance", [0.0, 2.0], "above 0 and at most 1; got {}. 1 keeps every example."),
    (IMPROVE, "noise", [-0.1, 0.6], "from 0 to 0.5; got {}. 0 flips no label."),
    (scenes.which_matrix, "problem", [TWO], "dense layers with W and b, for 10 classes; got params"),
    (scenes.which_matrix, "problem", [NETWORK], "one with at most 400 parameters; got 2410. Here F is"),
    (scenes.which_matrix, "problem", [TEN], "one with 1024 examples; got 10. Make n larger."),
    (scenes.vector_field, "noise", [0.05, 11.0], "from 0.1 to 10; got "),
    (written_in, "chart", ["log"], "one of 'affine', "),
    (written_in, "problem", [{"params": y}], PLANE),
    (scenes.rescaled_layers, "problem", [TWO], "one with two layers as params, [W₁, W₂]; got 0. A ReLU"),
    (BEHIND, "wrong", [WRONG[:, 1:]], "of shape (2, 4, 3, 4, 2); got (2, 3, 3, 4, 2). Its axes are in"),
    (BEHIND, "rare", [RARE[:, 2:]], "some kinds that descent neglects, and some that not; got [False"),
    (scenes.batches_and_memory, "remember", ["g"], "one of 'C', 'steps'; got 'g'. Choose one of these."),
    (RACE, "rivals", [{"rivals": {}}], "the runs of descent, adam, natural; got none. Name all."),
    (RACE, "ours", [{"first": "r"}, {"ours": OURS | {"r": {}}}], "runs of every variant, also of"),
    (RACE, "ours", [{"ours": {}}], "runs of every variant, also of c; got none. Run each"),
    (scenes.your_model, "problem", [None], "given, or else G; got neither. Give a Problem, or per-example"),
    (scenes.your_model, "problem", [{"problem": TWO, "G": G}], "given, or else G; got both. Give a Problem"),
    (scenes.your_model, "problem", [ef.linear_regression(p=1)], "with (n, p) gradients, n ≥ 2 and p ≥ 2;"),
    (scenes.your_model, "G", [G[:, :1], G[:1]], "with (n, p) gradients, n ≥ 2 and p ≥ 2; got {shape}. A"),
    (scenes.your_model, "G", [jnp.stack([g, -g])], "where the mean gradient is not 0; got g = 0. At a"),
    (scenes.your_model, "plane", [{"plane": "flat", "G": G}], "one of 'steps', 'eigenvectors', 'random';"),
]
FORM = r"(Exactly one of )?`{}`( and `learning_rate`)? must (be )?(?P<says>.+; got .+\. [A-Z0-9].+\.)"


@cache
def refusals(row):
    """The errors of a row, one for each bad value, and the places that they passed."""
    call, argument, values, _ = TABLE[row]
    messages, places = [], set()
    for bad in values:
        with pytest.raises((ValueError, TypeError)) as caught:
            bare(call)(**RIGHT.get(call, {}) | (bad if isinstance(bad, dict) else {argument: bad}))
        messages.append(str(caught.value))
        places |= {(at.filename, at.lineno, at.colno) for at in traceback.extract_tb(caught.tb)}
    return messages, places


@pytest.mark.parametrize("row", range(len(TABLE)), ids=[f"{row[0].__name__}-{row[1]}" for row in TABLE])
def test_table(row):
    _, argument, values, says = TABLE[row]
    for bad, message in zip(values, refusals(row)[0], strict=True):
        form = re.fullmatch(FORM.format(re.escape(argument)), message)
        assert form, message
        assert len(message) < 700
        shown = bad.get(argument) if isinstance(bad, dict) else bad
        shape = f"shape {jnp.shape(shown)}" if "{shape}" in says else ""
        assert form["says"].startswith(says.replace("{shape}", shape).replace("{}", f"{shown}")), message


CHECKS = {name for name, value in vars(errors).items() if callable(value) and name != "is_concrete"}
ELSEWHERE = {
    "browser/": "test_explorer.py and test_cards.py, on widgets that are open",
    "lessons/": "said to authors of exercises, and by the judge, whose words test_cards.py reads",
    "figures/table.py": "said to authors of scenes: test_scenes.py",
    "figures/paint.py": "said to authors of scenes: test_scenes.py",
    "errors.py: raise": "an error of the loss itself",
    "network/training.py: errors.reject('checkpoint', 'left out": "in the middle of a run: test_update.py",
    "__init__.py": "as Python says it: test_layers.py",
    "core/solve.py: errors.finite_result('G', u)": "XLA turns √∞/∞ to 0, so the dual is never NaN",
}


def checks(name):
    """The places where a module raises or calls a check, as in a traceback, each with its code."""
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        room, _, check = ("errors." * (name == "errors.py") + called).rpartition(".")
        if isinstance(node, ast.Raise) or (room == "errors" and check in CHECKS):
            yield f"{name}: {ast.unparse(node)}", (str(PACKAGE / name), node.lineno, node.col_offset)


def test_every_check_of_the_library_refuses_something_here():
    passed = set().union(*(refusals(row)[1] for row in range(len(TABLE))))
    names = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]
    missed = {code for name in names for code, place in checks(name) if place not in passed}
    assert {code for code in missed if not code.startswith(tuple(ELSEWHERE))} == set()
    assert {known for known in ELSEWHERE if not any(code.startswith(known) for code in missed)} == set()


def test_traced_values_pass():
    """Under jit no value is known: no error, but a result that says when it is not finite."""
    traced = jax.jit(lambda G, damping: step(G, damping=damping, budget=0.1))
    assert traced(G, -1.0).delta.shape == (2,)
    for value in (NAN, INF):
        result = traced(G.at[0, 0].set(value), 0.0)
        assert not jnp.isfinite(result.residual)
        assert not jnp.isfinite(result.delta).any()
