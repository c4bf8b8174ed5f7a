"""The update on real networks: θ ← θ - η(C + εI)⁻¹g for any JAX loss, on CPU, GPU or several devices.

One jitted function makes the Gram matrix K of the loss, solves n × n equations for the coefficients α, and takes Gᵀα.
Neither G nor C is formed, so a step costs little more than the gradient. A budget or a radius costs nothing: ΔᵀCΔ and
‖Δ‖ are known from K. Where there are at least as many examples as parameters, G is no larger than K, and is factored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import checked_chunk_size, per_example_losses
from efisher_teach.core.solve import quotient, relative
from efisher_teach.network import devices
from efisher_teach.network.direction import Past, direction_of, rows_of
from efisher_teach.network.gram import check_hashable
from efisher_teach.network.report import Numbers, Report, levenberg_marquardt, numbers_of, take
from efisher_teach.network.strategies import at_least_float32


class Remembered(NamedTuple):
    """Parameters, and what an update keeps from one step to the next; `Update.start` makes the first.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> update = ef.make_update(toy.loss_fn, damping=1e-3, learning_rate=0.1, memory=0.9)
        >>> remembered, _ = update(update.start(toy.params), toy.x, toy.y)
        >>> print(remembered.params - toy.params, -0.1 * remembered.direction)
        [ 0.036 -0.113] [ 0.036 -0.113]
    """

    params: PyTree
    direction: PyTree
    """u of the last step, which was Δ = -ηu."""
    damping: Float[Array, ""]
    """ε of the next step."""


class Settings(NamedTuple):
    """The part of an update that it is compiled for."""

    loss_fn: Callable
    relative_to: str | None
    mesh: Mesh | None
    measure: bool
    has_aux: bool
    needs_key: bool
    remembers: bool
    chunk_size: int | None


@dataclass(frozen=True, eq=False)  # known by its identity, as functions are: `jax.jit` takes it
class Update:
    """A step for any parameters and batch, as `make_update` makes it.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> update = ef.make_update(toy.loss_fn, damping=1e-3, budget=0.01)
        >>> weights = jnp.where(jnp.arange(20) < 15, 1.0, 0.0)  # the last five do not count
        >>> _, report = update(toy.params, toy.x, toy.y, weights=weights)
        >>> of_15 = jnp.mean(ef.per_example_losses(toy.loss_fn, toy.params, toy.x[:15], toy.y[:15]))
        >>> print(f"{report.loss:.4f}, {of_15:.4f}")
        0.2249, 0.2249
    """

    settings: Settings
    numbers: Numbers

    @property
    def needs_key(self) -> bool:
        """True if each call needs `key`; `fit` then gives one."""
        return self.settings.needs_key

    def start(self, params: PyTree) -> Remembered:
        """Parameters with nothing remembered yet, for an update with `memory` or `steer`."""
        return Remembered(params, jax.tree.map(jnp.zeros_like, params), self.numbers.damping)

    def __call__(
        self,
        params: PyTree,
        x: PyTree,
        y: PyTree,
        *,
        weights: Real[ArrayLike, " n"] | None = None,
        target: Real[ArrayLike, " n"] | None = None,
        key: Array | None = None,
    ) -> tuple[PyTree, Report]:
        """Take a step; see `make_update`."""
        settings, numbers = self.settings, self.numbers
        x, y = errors.data(x, y)
        n = errors.examples(x, y)
        if settings.remembers != isinstance(params, Remembered):
            wanted = "what update.start gives" if settings.remembers else "parameters"
            action = "Only updates with memory or steer remember: begin these with update.start(params)."
            errors.reject("params", wanted, type(params).__name__, action)
        if settings.remembers:
            params = params._replace(params=errors.parameters(params.params))
        else:
            params = errors.parameters(params)
        if settings.needs_key != (key is not None):
            wanted, got = ("a jax.random.key", "none") if settings.needs_key else ("left out", "a key")
            errors.reject("key", wanted, got, "It goes with make_update(…, needs_key=True).")
        weights = None if weights is None else _checked_weights(weights, n)
        target = None if target is None else errors.target(target, n)
        with devices.inside(settings.mesh):
            return _update(settings, numbers, params, x, y, weights, target, key)


def make_update(
    loss_fn: Callable,
    *,
    damping: Real[ArrayLike, ""],
    budget: Real[ArrayLike, ""] | None = None,
    radius: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    relative_to: str | None = None,
    memory: Real[ArrayLike, ""] = 0.0,
    accept: Real[ArrayLike, ""] | None = None,
    steer: Real[ArrayLike, ""] | None = None,
    mesh: Mesh | None = None,
    measure: bool = True,
    has_aux: bool = False,
    needs_key: bool = False,
    chunk_size: int | None = None,
) -> Update:
    """The empirical-Fisher update of a network: θ ← θ - η(C + εI)⁻¹g, with η given or set by a trust region.

    A step takes all that both allow: ΔᵀCΔ ≤ c, what it changes (`budget`), and ‖Δ‖ ≤ r, how far it goes (`radius`). A
    budget alone blows up where losses reach zero: C shrinks with them, and the same c buys ever longer steps, whatever
    ε is. A radius bounds them: the run then stalls within reach of the optimum, nearer with a smaller one.

    It is compiled once for a loss and its shapes: another ε, c, r or η costs nothing. In float32 its relative error is
    below 1e-5 for smooth networks; on a GPU only if the model's own products are not rounded to TF32, which leaves
    three digits: set `jax.default_matmul_precision("highest")`.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        damping: ε ≥ 0; 0 is the pseudo-inverse.
        budget: c > 0, the mean squared loss change that may be spent, to first order.
        radius: r > 0, the length that a step may have.
        learning_rate: η > 0, instead of both.
        relative_to: "largest" or "mean", if ε counts in the largest eigenvalue of K or in the mean one, tr K/n, where n
            is the number of examples with a weight.
        memory: β in [0, 1), to damp towards the last direction u₋ in place of 0:
            u = argmin E[(gᵢᵀu - 1)²] + ε‖u - βu₋‖². Begin with `update.start(params)`.
        accept: The least ratio of actual to promised decrease of a step that is taken; 0 refuses those that raise the
            mean loss of their examples.
        steer: ω in (0, 1), beside a learning rate: ε is multiplied by ω where that ratio is above ¾, and divided by ω
            where it is below ¼. Begin with `update.start(params)`.
        mesh: Devices that share the work. Its axis "examples" splits x and y, its axis "parameters" splits every array
            of the parameters that it can; it may have one of them or both. The result is the same on any mesh.
        measure: True evaluates the losses once more, after the step. This costs about a third of a gradient.
        has_aux: True if loss_fn returns (loss, aux); the report has aux, one an example.
        needs_key: True if it is `loss_fn(params, x, y, key)`, as for dropout: each example gets a key of its own, the
            same before and after the step.
        chunk_size: How many examples to differentiate at once, where the loss needs more memory than its layers' inputs
            and errors, which are kept for all n examples. None means all.

    Returns:
        `update(params, x, y) -> (params, Report)`, for x and y with one example a row. It can be called anywhere, also
        under `jax.jit`. It takes three more arguments by name: `weights` (n,), at least 0, count in every mean (whole
        numbers are repetitions, 0 is padding with anything, also NaN); `target` (n,) is the decrease that each example
        is asked for, as in `targeted_step`; `key` is for `needs_key`. To multiply a loss by a weight does something
        else: that example is still asked for the same decrease as the others, and so has to move less. g = 0 leaves
        the parameters as they are, and so does a step that is not finite: see `Report.finite`.

    Raises:
        ValueError: A number is out of its range; none of budget, radius and learning_rate is given, or a learning rate
            beside another; the mesh has other axes. The update itself raises as `loss_gram` does, except that it
            reports what is not finite; and if weights or target do not fit, or n is not a multiple of the devices that
            share the examples.

    Reference:
        For memory: G. Goldshlager, N. Abrahamsen, L. Lin, "A Kaczmarz-inspired approach to accelerate the optimization
        of neural network wavefunctions", J. Comput. Phys. 2024. For steer: J. Martens, R. Grosse, "Optimizing neural
        networks with Kronecker-factored approximate curvature", ICML 2015, section 6.5.

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2
        >>> update = ef.make_update(loss_fn, damping=0.0, budget=0.01)
        >>> params, report = update(jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0]))  # G = [[1, 0], [0, 2]]
        >>> print(params, f"{report.predicted_decrease:.3f}, in truth {report.actual_decrease:.3f}")
        [-0.1  -0.05] 0.100, in truth 0.097
    """
    check_hashable(loss_fn)
    errors.relative_to(relative_to)
    if not measure and (accept is not None or steer is not None):
        action = "Leave it out: they judge what is measured."
        errors.reject("measure", "True beside accept or steer", "False", action)
    numbers = numbers_of(damping, budget, radius, learning_rate, memory, accept, steer)
    mesh = None if mesh is None else devices.automatic(mesh)
    remembers = steer is not None or not errors.is_concrete(memory) or bool(memory != 0)
    chunk_size = checked_chunk_size(chunk_size)
    settings = Settings(loss_fn, relative_to, mesh, measure, has_aux, needs_key, remembers, chunk_size)
    return Update(settings, numbers)


def _checked_weights(value, n):
    """The weight of each of n examples (n,): finite, at least 0, not all of them 0."""
    weights, action = errors.as_float("weights", value), "Use 0 for examples that do not count."
    errors.shaped("weights", weights, (n,), "one number an example", "Use 0 for padding.")
    errors.finite_rows("weights", weights, action)
    if errors.is_concrete(weights) and (np.any(np.asarray(weights) < 0) or not np.any(weights)):
        got = "only zeros" if not np.any(weights) else f"{float(np.min(weights)):g} among them"
        errors.reject("weights", "at least 0, and not all of them 0", got, action)
    return weights


@partial(jax.jit, static_argnames="settings")
def _update(settings, numbers, params, x, y, weights, target, key):
    last, damping = None, numbers.damping
    if settings.remembers:
        params, last, damping = params
    x, y = devices.split_examples(settings.mesh, x, y)
    params = devices.split_parameters(settings.mesh, params)
    n = len(jax.tree.leaves(x)[0])
    if weights is not None:  # what does not count may be anything, so another example takes its place
        there = jnp.where(weights > 0, jnp.arange(n), jnp.argmax(weights > 0))
        x, y = jax.tree.map(lambda leaf: leaf[there], (x, y))
    whole, loss_fn = settings.loss_fn, settings.loss_fn
    if settings.needs_key:
        x = x, jax.random.split(key, n)
        whole = loss_fn = lambda params, x, y: settings.loss_fn(params, x[0], y, x[1])
    if settings.has_aux:
        loss_fn = lambda params, x, y: whole(params, x, y)[0]  # noqa: E731

    share = jnp.full(n, 1 / n) if weights is None else weights / jnp.sum(weights)
    s, target = jnp.sqrt(share), jnp.ones(n) if target is None else target
    losses, rows = rows_of(loss_fn, params, x, y, s, settings.mesh, settings.chunk_size)
    losses_at = partial(per_example_losses, loss_fn, x=x, y=y, chunk_size=settings.chunk_size)
    past = None
    if last is not None:
        directions = jax.tree.map(lambda leaf: numbers.memory.astype(leaf.dtype) * leaf, last)
        _, changes = jax.jvp(losses_at, (params,), (directions,))
        squares = [jnp.sum((rows.unit * at_least_float32(leaf)) ** 2) for leaf in jax.tree.leaves(directions)]
        past = Past(directions, s * changes, jnp.sum(jnp.stack(squares)))
    shift = damping.astype(rows.lengths.dtype)
    if settings.relative_to is None:
        shift = shift / rows.unit / rows.unit
    else:
        mean = lambda: jnp.sum(rows.lengths**2) / jnp.sum(s > 0)  # noqa: E731
        shift = relative(shift, settings.relative_to, rows.largest, mean)
    found = direction_of(rows, s, target, shift, past)

    evaluate, limits = losses_at if settings.measure else None, numbers.limits
    taken = take(params, rows, found, past, shift, limits, losses, share, evaluate, settings.mesh)
    moved, delta, report = taken
    if settings.has_aux:
        report = report._replace(aux=jax.vmap(whole, (None, 0, 0))(params, x, y)[1])
    if settings.remembers:
        direction = jax.tree.map(lambda step: quotient(step, -report.learning_rate.astype(step.dtype)), delta)
        direction = jax.tree.map(partial(jnp.where, report.accepted), direction, last)
        if numbers.steer is not None:
            damping = levenberg_marquardt(damping, report.ratio, numbers.steer)
        moved = Remembered(moved, direction, damping)
    return moved, report
