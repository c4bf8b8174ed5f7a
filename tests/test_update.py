"""The update of networks: against the step in float64, as a part of JAX and optax, and in a training loop."""

import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

import efisher_teach as ef
from efisher_teach.network import devices, training
from efisher_teach.network.update import Report

BUDGET = 0.01
DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 0.0)
NAN, INF = float("nan"), float("inf")


def softmax_loss(params, x, y):
    hidden = jnp.tanh(params["W"] @ x + params["b"])
    z = params["V"] @ hidden + params["c"]
    return jax.scipy.special.logsumexp(z) - z[y]


def network(dtype, seed=0, distinct=12):
    """12 examples (some of them more than once) and 183 parameters: K has condition 61 if all are distinct."""
    rng = np.random.default_rng(seed)
    shapes = {"W": (12, 11), "b": (12,), "V": (3, 12), "c": (3,)}
    params = {name: rng.normal(size=shape) / np.sqrt(12) for name, shape in shapes.items()}
    x, y = rng.normal(size=(12, 11)), np.arange(12, dtype=np.int32) % 3
    x, y = (np.concatenate([rows[:distinct]] * (12 // distinct)) for rows in (x, y))
    params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, x))
    return params, x, jnp.asarray(y)


@partial(jax.jit, static_argnames="option")
def by_definition(params, x, y, damping, option, value):
    """Losses, G, the step, and the losses after it."""
    G = ef.per_example_gradients(softmax_loss, params, x, y)
    delta = ef.empirical_fisher_step(G, damping=damping, **{option: value}).delta
    before, unravel = ravel_pytree(params)
    after = unravel(before + delta)
    losses = [ef.per_example_losses(softmax_loss, each, x, y) for each in (params, after)]
    return before, G, delta, *losses


def expected(params, x, y, damping, option, value):
    """The parameters, the step Δ, and the report, each from its definition; in float64."""
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        before, G, delta, losses, after = map(np.asarray, by_definition(params, x, y, damping, option, value))
    u, g = oracles.direction(G, damping), oracles.mean_gradient(G)
    report = {
        "loss": np.mean(losses),
        "actual_decrease": np.mean(losses) - np.mean(after),
        "predicted_decrease": -g @ delta,
        "budget_spent": np.mean((G @ delta) ** 2),
        "learning_rate": value if option == "learning_rate" else np.sqrt(value / np.mean((G @ u) ** 2)),
        "damped_agreement": g @ u,
    }
    return before, delta, report


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], float)


def same_bits(tree, other):
    """Equal to the last bit, NaN and the sign of zero included; of one structure and dtype."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, twin in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        leaf, twin = np.asarray(leaf), np.asarray(twin)
        assert leaf.dtype == twin.dtype
        assert leaf.shape == twin.shape
        assert leaf.tobytes() == twin.tobytes()


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


# The update is the step.


@pytest.mark.parametrize("damping", DAMPINGS)
def test_update_is_the_step_and_reports_what_it_did(damping, dtype):
    params, x, y = network(dtype)
    options = {"budget": BUDGET} | ({"learning_rate": 0.3} if dtype == "float64" else {})  # spares compiling
    for option, value in options.items():
        moved, report = ef.make_update(softmax_loss, damping=damping, **{option: value})(params, x, y)
        theta, delta, wanted = expected(params, x, y, damping, option, value)
        # What is left of 16 digits where the condition is squared; of 7 digits, 5 of the step at every ε.
        close = 1e-5 if dtype == "float32" else 1e-10
        assert np.linalg.norm(flat(moved) - theta - delta) < close * np.linalg.norm(delta)
        for name, answer in wanted.items():
            # A difference of two losses is rounded like the losses.
            atol = 4 * oracles.unit(dtype) * wanted["loss"] if name == "actual_decrease" else 0
            np.testing.assert_allclose(getattr(report, name), answer, rtol=close, atol=atol, err_msg=name)
        assert report.finite
        assert 0 <= report.residual < close
        assert {leaf.dtype for leaf in jax.tree.leaves((moved, report[:-1]))} == {jnp.dtype(dtype)}
        # To rounding, not only closely.
        spent = report.budget_spent if option == "budget" else report.learning_rate
        np.testing.assert_allclose(spent, value, rtol=10 * oracles.unit(dtype))


@pytest.mark.parametrize("damping", [0.0, 1e-9, 1e-7])
def test_repeated_examples_in_float32(damping):
    """K has rank 4 of 12, and rounding makes it indefinite. Many draws: what is NaN in some is NaN."""
    update = ef.make_update(softmax_loss, damping=damping, budget=BUDGET)
    for seed in range(20):
        params, x, y = network("float32", seed, distinct=4)
        moved, report = update(params, x, y)
        for name, value in report._asdict().items():
            assert np.isfinite(value), (seed, name)
        assert report.finite
        assert report.residual < 1e-4
        if seed < 3:
            theta, delta, wanted = expected(params, x, y, damping, "budget", BUDGET)
            # ε and the null space of K cost digits: 1.4e-5 were measured on another network.
            assert np.linalg.norm(flat(moved) - theta - delta) < 1e-4 * np.linalg.norm(delta)
            np.testing.assert_allclose(report.damped_agreement, wanted["damped_agreement"], rtol=1e-5)


# Where there is no step.


def line(theta, x, y):
    return (x @ theta - y) ** 2 / 2


def well(theta, x, y):
    """Overflows in float32 from |θx| = 89 on."""
    return jnp.sum(jnp.cosh(theta * x)) + y


X = np.array([[1.0, 0.5], [1.0, 0.5], [-0.3, 2.0], [-0.3, 2.0]], np.float32)
Y4, THETA = np.arange(4, dtype=np.float32), np.array([0.1, -0.7], np.float32)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("option", [{"budget": BUDGET}, {"learning_rate": 0.3}], ids=["budget", "rate"])
def test_gradients_that_cancel_leave_the_parameters_as_they_are(option, damping):
    """Each input with two targets, as far below as above: g is 0 but for rounding, the gradients are not."""
    x, theta, off = jnp.asarray(X), jnp.asarray(THETA), jnp.asarray([1.0, -1.0, 2.0, -2.0])
    update = ef.make_update(line, damping=damping, **option)
    y = x @ theta + off
    moved, report = update(theta, x, y)
    same_bits(moved, theta)
    for name in set(Report._fields) - {"loss", "learning_rate", "finite"}:
        assert getattr(report, name) == 0, name
    rate = option.get("learning_rate", 0)  # a given one is reported as it was given
    np.testing.assert_allclose(report.learning_rate, rate)
    assert report.finite
    np.testing.assert_allclose(report.loss, 1.25, rtol=1e-6)
    # A fit without any error: all gradients are 0.
    moved, report = update(jnp.zeros(2), x, jnp.zeros(4))
    same_bits(moved, jnp.zeros(2))
    np.testing.assert_allclose(report.learning_rate, rate)
    assert report.finite
    # A thousandth beside it there is a step.
    moved, report = update(theta, x, y.at[0].add(1e-3))
    assert not np.array_equal(moved, theta)
    assert report.learning_rate > 0


def test_a_step_that_is_not_finite_is_not_taken():
    theta, x, y = jnp.asarray([1.0, -0.5]), jnp.asarray(X), jnp.zeros(4)
    far = ef.make_update(well, damping=0.1, learning_rate=1e3)
    moved, report = far(theta, x, y)
    same_bits(moved, theta)
    assert not report.finite
    assert report.actual_decrease == -INF
    assert np.isfinite([report.loss, report.predicted_decrease]).all()
    # Where it is not measured, nobody knows.
    moved, report = ef.make_update(well, damping=0.1, learning_rate=1e3, measure=False)(theta, x, y)
    assert report.actual_decrease is None
    assert report.finite
    assert np.isfinite(moved).all()
    assert np.abs(np.asarray(moved)).max() > 100
    # The step itself overflows, and is not taken, measured or not.
    for measure in True, False:
        enormous = ef.make_update(well, damping=1e-3, learning_rate=3e38, measure=measure)
        moved, report = enormous(theta, 0.1 * x, y)
        same_bits(moved, theta)
        assert not report.finite
    moved, report = ef.make_update(well, damping=0.1, budget=1e38)(theta, x, y)
    same_bits(moved, theta)
    assert not report.finite
    # A step of finite length is too long for float16.
    half = theta.astype(jnp.float16)
    update = ef.make_update(line, damping=0.0, learning_rate=1e6, measure=False)
    moved, report = update(half, 1e-3 * x[1:3], jnp.full(2, 1e3))
    same_bits(moved, half)
    assert np.isfinite(report.budget_spent)
    assert not report.finite


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("place", ["x", "y"])
def test_an_example_that_is_not_finite_is_reported(place, value):
    theta, x, y = jnp.asarray([1.0, -0.5]), jnp.asarray(X), jnp.zeros(4)
    x, y = (x.at[2, 0].set(value), y) if place == "x" else (x, y.at[2].set(value))
    for measure in True, False:
        moved, report = ef.make_update(well, damping=0.1, learning_rate=1e3, measure=measure)(theta, x, y)
        same_bits(moved, theta)
        assert not report.finite
        assert not np.isfinite(report.loss)


def test_large_numbers_are_finite():
    """Their squares are not, in float32."""
    theta = jnp.asarray([1e25, 1.0])
    x = jnp.asarray(X).at[:, 0].set(0)
    moved, report = ef.make_update(line, damping=0.1, budget=BUDGET)(theta, x, jnp.arange(4.0))
    assert report.finite
    assert moved[0] == theta[0]
    assert moved[1] != theta[1]


# As a part of JAX.


def test_other_numbers_do_not_compile_again():
    traces = []

    def counted(theta, x, y):
        traces.append(None)
        return line(theta, x, y)

    x, theta, y = jnp.asarray(X), jnp.asarray(THETA), jnp.arange(4.0)
    first, _ = ef.make_update(counted, damping=0.1, budget=0.1)(theta, x, y)
    assert traces
    traces.clear()
    for damping, budget in (0.0, 0.2), (1e-3, np.float64(0.3)), (np.float32(0.1), jnp.asarray(1e-4)), (1, 2):
        moved, _ = oracles.bare(ef.make_update)(counted, damping=damping, budget=budget)(theta, x, y)
        assert not np.array_equal(moved, first)
    assert traces == []


def test_inside_jit_and_scan():
    """A loop of compiled updates, one compiled loop, and ε and c that are traced: the same."""
    rng, theta = np.random.default_rng(0), jnp.asarray(THETA)
    x, y = (
        jnp.asarray(rng.normal(size=(3, 4, 2)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
    )
    update, moved, reports = ef.make_update(line, damping=0.1, budget=BUDGET), theta, []
    for batch in zip(x, y, strict=True):
        moved, report = update(moved, *batch)
        reports.append(report)

    @jax.jit
    def loop(damping, budget):
        update = ef.make_update(line, damping=damping, budget=budget)
        return lax.scan(lambda theta, batch: update(theta, *batch), theta, (x, y))

    last, stacked = loop(0.1, BUDGET)
    np.testing.assert_allclose(last, moved, rtol=1e-5)
    for name in Report._fields:
        alone = [getattr(report, name) for report in reports]
        # A residual is rounding itself.
        np.testing.assert_allclose(getattr(stacked, name), alone, rtol=1e-4, atol=1e-5, err_msg=name)
    other, _ = loop(10.0, 2 * BUDGET)
    assert oracles.relative(other, moved) > 0.01


@pytest.mark.parametrize("double", [False, True])
def test_precision_is_that_of_the_parameters(double):
    """Also of mixed ones, where x64 is on; where it is off, nothing becomes float64."""

    def loss(params, x, y):
        return (x @ params["theta"] + params["bias"] - y) ** 2 / 2

    with jax.enable_x64(double):
        params = {"theta": jnp.asarray(THETA), "bias": jnp.asarray(0.1, float)}  # float64 if double
        x, y = jnp.asarray(X), jnp.arange(4, dtype=jnp.float32)
        moved, report = ef.make_update(loss, damping=np.float64(0.1), budget=np.float64(BUDGET))(params, x, y)
        assert jax.config.jax_enable_x64 == double
    assert moved["theta"].dtype == jnp.float32
    assert moved["bias"].dtype == (jnp.float64 if double else jnp.float32)
    assert report.loss.dtype == moved["bias"].dtype
    G = (X @ THETA + 0.1 - np.arange(4))[:, None] * np.column_stack([np.ones(4), X])
    u = oracles.direction(G, 0.1)
    step = -u * np.sqrt(BUDGET / np.mean((G @ u) ** 2))
    got = np.r_[moved["bias"] - params["bias"], moved["theta"] - THETA]
    assert oracles.relative(got, step) < 1e-5


def test_a_mesh_of_one_device_changes_nothing():
    theta, x, y = jnp.asarray(THETA), jnp.asarray(X), jnp.arange(4.0)
    moved, report = ef.make_update(line, damping=0.1, budget=BUDGET)(theta, x, y)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("examples", "parameters"))
    shared, same = ef.make_update(line, damping=0.1, budget=BUDGET, mesh=mesh)(theta, x, y)
    np.testing.assert_allclose(shared, moved, rtol=1e-6)
    np.testing.assert_allclose(same.actual_decrease, report.actual_decrease, rtol=1e-5)


# The transformation for optax.


def example_gradients(*shape, seed=0):
    """A pytree of per-example gradients, and the same as G."""
    G = np.random.default_rng(seed).normal(size=(*shape, 5))
    return {"a": jnp.asarray(G[..., :2]), "b": jnp.asarray(G[..., 2:]).reshape(*shape, 3, 1)}, G


START = {"a": np.ones(2), "b": np.zeros((3, 1))}


def start():
    return jax.tree.map(jnp.asarray, START)


@jax.jit
def direction_of(damping, updates):
    """One batch; compiled once for every ε."""
    transformation = ef.scale_by_empirical_fisher(damping)
    G = jax.vmap(lambda example: ravel_pytree(example)[0])(updates)
    step = ef.empirical_fisher_step(G, damping=damping, learning_rate=0.3)
    return *transformation.update(updates, transformation.init(start()), start()), step.delta


@pytest.mark.parametrize("damping", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("n", [4, 8])
def test_transformation_is_the_direction(n, damping, x64):
    optax = pytest.importorskip("optax")
    updates, G = example_gradients(n)
    out, state, delta = direction_of(damping, updates)
    assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, start())
    np.testing.assert_allclose(flat(out), oracles.direction(G, damping), rtol=1e-9)
    moved = optax.apply_updates(start(), jax.tree.map(lambda u: -0.3 * u, out))
    np.testing.assert_allclose(flat(moved), flat(start()) + np.asarray(delta), rtol=1e-9, atol=1e-12)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= 1  # without decay nothing is remembered


def test_in_a_chain_with_schedules(x64):
    """η and ε by schedules of optax, which are float32; and ε set by hand in the state."""
    optax = pytest.importorskip("optax")
    rate, damping = optax.linear_schedule(1.0, 0.1, 3), optax.exponential_decay(0.1, 1, 0.5)
    make = oracles.bare(ef.scale_by_empirical_fisher)  # optax makes an array of the default of `decay`, too
    for options in {}, {"decay": 0.0, "memory": 8}:
        scaled = optax.inject_hyperparams(make, static_args=tuple(options))(damping=damping, **options)
        chain = optax.chain(scaled, optax.scale_by_learning_rate(rate))
        update, state = jax.jit(chain.update), chain.init(start())
        for step in range(3):
            updates, G = example_gradients(4, seed=step)
            out, state = update(updates, state)
            wanted = -float(rate(step)) * oracles.direction(G, 0.1 * 0.5**step)
            np.testing.assert_allclose(flat(out), wanted, rtol=1e-5)
    fixed = optax.inject_hyperparams(make)(damping=0.1)
    state = fixed.init(start())
    state.hyperparams["damping"] = jnp.asarray(2.0)
    out, _ = jax.jit(fixed.update)(updates, state)
    np.testing.assert_allclose(flat(out), oracles.direction(G, 2.0), rtol=1e-6)


@pytest.mark.parametrize("memory", [20, 6], ids=["all batches", "the newest rows"])
def test_running_average(memory, x64):
    """Batches of unequal sizes by their definition. Six rows: the last batch, and the newest of the one before."""
    pytest.importorskip("optax")
    decay, damping = 0.8, 0.1
    transformation = ef.scale_by_empirical_fisher(damping, decay=decay, memory=memory)
    update, state, past = jax.jit(transformation.update), transformation.init(start()), []
    for step, n in enumerate((4, 4, 4, 3, 4)):
        updates, G = example_gradients(n, seed=step)
        out, state = update(updates, state)
        past = ([(row, step, n) for row in G] + past)[:memory]
        C, total = np.zeros((5, 5)), 0.0
        for row, of_step, of_n in past:
            C += (1 - decay) * decay ** (step - of_step) / of_n * np.outer(row, row)
        for of_step in range(step + 1):
            total += (1 - decay) * decay ** (step - of_step)
        wanted = np.linalg.solve(C / total + damping * np.eye(5), oracles.mean_gradient(G))
        np.testing.assert_allclose(flat(out), wanted, rtol=1e-9)
        assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(memory, 5), (memory,), ()]
    # It does remember: the last batch alone is another direction.
    assert oracles.relative(flat(out), oracles.direction(G, damping)) > 0.05


def test_transformation_in_float32():
    pytest.importorskip("optax")
    updates, G = example_gradients(4)
    updates = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
    transformation = ef.scale_by_empirical_fisher(0.1, decay=0.5, memory=8)
    with jax.enable_x64(True):  # float32 also where float64 could be
        small = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start())
        out, state = jax.jit(transformation.update)(updates, transformation.init(small))
    assert {leaf.dtype for leaf in jax.tree.leaves((out, state))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(flat(out), oracles.direction(G, 0.1), rtol=1e-4)


# The loop. Its updates are small, and say which examples they saw.


class Seen(NamedTuple):
    loss: Any
    examples: Any


@jax.jit
def descend(theta, x, y):
    """Gradient descent with a rate that makes the loss of small batches go up and down."""
    loss, g = jax.value_and_grad(lambda theta: jnp.mean(jax.vmap(line, (None, 0, 0))(theta, x, y)))(theta)
    return theta - 0.3 * g, Seen(loss, y)


N = 7
Y = np.arange(N, dtype=np.float32)
XS = np.random.default_rng(5).normal(size=(N, 2)).astype(np.float32)
KEY = 11


def run(update=descend, params=THETA, x=XS, y=Y, **options):
    """`fit` in silence; batches of 3 of 7, two of them an epoch."""
    pytest.importorskip("tqdm")
    options = {"steps": 9, "batch_size": 3, "key": jax.random.key(KEY), "progress": False} | options
    params, x, y = jax.tree.map(jnp.asarray, (params, x, y))
    return ef.fit(update, params, x, y, **options)


def after(step, error=None):
    """A callback that ends the loop when so many steps are done."""

    def callback(number, params, report):
        if number + 1 == step:
            if error is not None:
                raise error
            return True

    return callback


def test_fit_is_the_loop_by_hand():
    for update in descend, ef.make_update(line, damping=0.1, budget=BUDGET):
        theta, losses = jnp.asarray(THETA), []
        for _ in range(4):
            theta, report = update(theta, jnp.asarray(XS), jnp.asarray(Y))
            losses.append(report.loss)
        found = run(update, steps=4, batch_size=None, key=None)
        same_bits(found.params, theta)
        assert type(found.reports) is type(report)
        same_bits(found.reports.loss, np.array(losses))
        assert all(isinstance(leaf, np.ndarray) and len(leaf) == 4 for leaf in jax.tree.leaves(found.reports))
        assert found.stopped == "all steps done"


def test_batches_go_through_every_example_once():
    """Of 6, twice 3 are all; the order is another one in the next epoch, and another key gives another one."""
    x, y = XS[:6], Y[:6]
    found = run(x=x, y=y, steps=8)
    epochs = found.reports.examples.reshape(4, 6)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), y)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    others = run(x=x, y=y, steps=8, key=jax.random.key(1)).reports.examples.reshape(4, 6)
    assert not np.array_equal(epochs, others)
    # x and y stay together: by hand on what was seen.
    theta = jnp.asarray(THETA)
    for seen in found.reports.examples:
        theta, _ = descend(theta, jnp.asarray(XS[seen.astype(int)]), jnp.asarray(seen))
    same_bits(found.params, theta)
    # 7 in batches of 3: one is left out, not always the same, and none comes twice.
    epochs = run(steps=20).reports.examples.reshape(10, 6)
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({*Y} - set.intersection(*map(set, epochs))) > 1


def test_best_is_the_lowest_reported_loss():
    """The loss is that before the step: the best parameters are those that came in."""
    came_in = [jnp.asarray([5.0, -5.0])]
    found = run(params=came_in[0], callbacks=[lambda step, theta, report: came_in.append(theta)])
    lowest = int(np.argmin(found.reports.loss))
    assert 0 < lowest < 8
    same_bits(found.best, came_in[lowest])
    same_bits(found.params, came_in[9])
    np.testing.assert_array_equal(found.reports.loss[[lowest]], [min(found.reports.loss)])


def test_callbacks():
    calls = []

    def note(step, params, report):
        calls.append((step, np.asarray(params), float(report.loss)))

    found = run(callbacks=[note, after(5)])
    assert found.stopped == "by a callback"
    assert [step for step, _, _ in calls] == [0, 1, 2, 3, 4]
    assert len(found.reports.loss) == 5
    same_bits(calls[-1][1], found.params)
    assert [loss for _, _, loss in calls] == list(found.reports.loss)
    calls.clear()
    assert run(callbacks=[after(5), note]).stopped == "by a callback"
    assert len(calls) == 5  # also the ones after it
    calls.clear()
    run(callbacks=(each for each in [note]))  # any iterable, at every step
    assert len(calls) == 9


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("stop", [4, 5])
@pytest.mark.parametrize(
    "way", ["steps", "callback", "ctrl-c", "error", "ctrl-c in the update", "while it runs"]
)
def test_goes_on_as_if_it_had_never_stopped(way, stop, batch_size, tmp_path, monkeypatch):
    """5 is in the middle of an epoch."""
    key = None if batch_size is None else jax.random.key(KEY)
    go, path = partial(run, batch_size=batch_size, key=key), tmp_path / "run.npz"
    whole = go()
    if way == "steps":
        assert go(steps=stop, checkpoint=path).stopped == "all steps done"
    elif way == "callback":
        assert go(callbacks=[after(stop)], checkpoint=str(path)).stopped == "by a callback"
    elif way == "ctrl-c":
        part = go(callbacks=[after(stop, KeyboardInterrupt())], checkpoint=path)
        assert part.stopped == "interrupted"
        same_bits(part.reports, jax.tree.map(lambda leaf: leaf[:stop], whole.reports))
    elif way == "error":
        with pytest.raises(RuntimeError, match="of the user"):
            go(callbacks=[after(stop, RuntimeError("of the user"))], checkpoint=path)
    elif way == "ctrl-c in the update":
        calls = []

        def pressed(*arguments):
            calls.append(None)
            if len(calls) > stop:
                raise KeyboardInterrupt
            return descend(*arguments)

        part = go(pressed, checkpoint=path)
        assert part.stopped == "interrupted"
        assert len(part.reports.loss) == stop
    else:  # what lies there while it runs, as after a power cut
        monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", -1)
        kept = tmp_path / "kept.npz"

        def copy(step, params, report):
            if step == stop:  # the file has the steps before this one
                kept.write_bytes(path.read_bytes())

        go(callbacks=[copy], checkpoint=path)
        path = kept
    assert path.exists()
    calls = []
    on = go(checkpoint=path, callbacks=[lambda step, *_: calls.append(step)])
    same_bits(on, whole._replace(stopped=on.stopped))
    assert on.stopped == "all steps done"
    assert calls == list(range(stop, 9))
    # All is done: nothing happens any more.
    calls.clear()
    same_bits(go(checkpoint=path, callbacks=[lambda step, *_: calls.append(step)]), on)
    assert calls == []


def test_no_file_is_written_without_a_step(tmp_path):
    def pressed(*_):
        raise KeyboardInterrupt

    found = run(pressed, checkpoint=tmp_path / "run.npz")
    assert found.stopped == "interrupted"
    assert found.reports == ()
    same_bits(found.params, jnp.asarray(THETA))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_ends_the_loop(tmp_path):
    """A NaN target: the update leaves the parameters as they were, and so does the file."""
    update, path = ef.make_update(line, damping=0.1, budget=BUDGET), tmp_path / "run.npz"
    came_in = [jnp.asarray(THETA)]
    order = run(steps=2).reports.examples  # which examples the first two steps see
    bad = int(order[1, 0])
    found = run(
        update,
        y=np.where(np.arange(N) == bad, NAN, Y).astype(np.float32),
        callbacks=[lambda step, theta, report: came_in.append(theta)],
        checkpoint=path,
    )
    assert found.stopped == "not finite"
    assert found.reports.finite.tolist() == [True, False]
    assert np.isnan(found.reports.loss[1])
    assert np.isfinite(found.params).all()
    same_bits(found.params, came_in[1])
    same_bits(found.best, jnp.asarray(THETA))
    # With the data repaired it goes on.
    on = run(update, checkpoint=path)
    assert on.stopped == "all steps done"
    assert np.isfinite(on.params).all()
    same_bits(on.reports.finite, np.array([True, False] + 7 * [True]))


def test_a_step_that_is_not_finite_ends_the_loop():
    """The loss before it was fine. And an update of others, which says nothing of `finite`, ends by its loss."""
    far = ef.make_update(well, damping=0.1, learning_rate=1e3)
    x, y = np.ones((4, 2), np.float32), np.zeros(4, np.float32)
    found = run(far, x=x, y=y, batch_size=None)
    assert found.stopped == "not finite"
    assert np.isfinite(found.reports.loss).all()
    same_bits(found.params, jnp.asarray(THETA))

    @jax.jit
    def diverges(theta, x, y):
        return 1e6 * theta, Seen(jnp.mean(jax.vmap(line, (None, 0, 0))(theta, x, y)), y)

    found = run(diverges)
    assert found.stopped == "not finite"
    assert np.isfinite(found.reports.loss[:-1]).all()
    assert not np.isfinite(found.reports.loss[-1])
    same_bits(found.best, jnp.asarray(THETA))


def test_checkpoint_of_other_parameters(tmp_path):
    path = tmp_path / "run.npz"
    run(steps=2, checkpoint=path)
    before = path.read_bytes()
    message = "`checkpoint` must be a file of these parameters"
    with raises(message) as caught:
        run(params=np.ones(3), x=np.ones((N, 3)), checkpoint=path)
    assert "run.npz" in str(caught.value)
    assert "or delete the file" in str(caught.value)
    with raises(message):  # other reports
        run(ef.make_update(line, damping=0.1, budget=BUDGET), checkpoint=path)
    with raises(message):
        run(lambda two, x, y: (two, descend(two[0], x, y)[1]), params=(THETA, THETA), checkpoint=path)
    for dtype in "float16", "bfloat16":  # to go on in another precision would be another run
        with raises(message):
            run(params=jnp.asarray(THETA, dtype), checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "a wrong byte", "another array"])
def test_checkpoint_that_is_damaged(damage, tmp_path):
    path = tmp_path / "run.npz"
    run(steps=2, checkpoint=path)
    content = path.read_bytes()
    place = content.index(np.load(path)["arr_0"].tobytes())  # the first number of θ, in the middle of a zip
    wrong = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    half = content[: len(content) // 2]
    path.write_bytes({"empty": b"", "text": b"not a checkpoint", "cut": half}.get(damage, wrong))
    if damage == "another array":
        np.savez(path, np.ones(3))
    with raises("`checkpoint` must be "):
        run(checkpoint=path)


def test_a_crash_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path, whole = tmp_path / "run.npz", run()
    run(steps=3, checkpoint=path)

    def crash(file, *arrays):
        file.write(b"half a file")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", crash)
        with pytest.raises(OSError, match="disk full"):
            run(steps=6, checkpoint=path)
    calls = []
    same_bits(run(checkpoint=path, callbacks=[lambda step, *_: calls.append(step)]), whole)
    assert calls[0] == 3


def test_bfloat16_survives_a_checkpoint(tmp_path):
    """NumPy has no name for it."""

    def halve(params, x, y):
        params = jax.tree.map(lambda leaf: (leaf * 0.7).astype(leaf.dtype), params)
        return params, Seen(jnp.sum(params["b"]), jnp.mean(y).astype(jnp.bfloat16))

    params = {
        "a": jnp.asarray([1.1, -3.3], jnp.bfloat16),
        "b": jnp.asarray(THETA),
        "c": jnp.asarray(2, jnp.bfloat16),
    }
    run(halve, params, steps=5, checkpoint=tmp_path / "run.npz")
    on, whole = run(halve, params, checkpoint=tmp_path / "run.npz"), run(halve, params)
    assert on.params["a"].dtype == on.params["c"].dtype == jnp.bfloat16
    same_bits(on, whole)


def test_adam_keeps_its_state_in_the_parameters(tmp_path):
    optax = pytest.importorskip("optax")
    update, params = ef.optax_update(line, optax.adam(0.1), jnp.asarray(THETA))
    whole, path = run(update, params), tmp_path / "run.npz"
    same_bits(run(update, params, steps=5, checkpoint=path).reports.loss, whole.reports.loss[:5])
    same_bits(run(update, params, checkpoint=path), whole)
    assert whole.params[1][0].count == 9
    # By hand, with optax alone.
    theta, state = params
    gradient = jax.grad(lambda theta: jnp.mean(jax.vmap(line, (None, 0, 0))(theta, XS, Y)))
    step, _ = optax.adam(0.1).update(gradient(theta), state)
    (moved, _), report = update(params, jnp.asarray(XS), jnp.asarray(Y))
    np.testing.assert_allclose(moved, optax.apply_updates(theta, step), atol=1e-7)
    np.testing.assert_allclose(report.loss, np.mean((XS @ THETA - Y) ** 2) / 2, rtol=1e-6)


def test_progress_bar(capsys, tmp_path):
    found = run(progress=True)
    written = capsys.readouterr()
    assert f"loss={found.reports.loss[-1]:.4g}" in written.err
    assert "9/9" in written.err
    assert written.out == ""
    run(progress=False, steps=4, checkpoint=tmp_path / "run.npz")
    assert capsys.readouterr() == ("", "")
    run(progress=True, checkpoint=tmp_path / "run.npz")
    written = capsys.readouterr().err
    assert "4/9" in written  # a resumed run does not begin at 0
    assert "9/9" in written


# What it is compared with


PROBLEMS = {
    "digits": partial(ef.digits, (5,)),
    "logistic": ef.logistic_regression,
    "linear": ef.linear_regression,
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_natural_update_is_the_step_by_the_dense_fisher(name, x64):
    """For each likelihood: the labels that the model believes in make rows of the same F, with g in their range."""
    problem = PROBLEMS[name]()
    x, y = problem.x[:12], problem.y[:12]
    known = {"output_fn": problem.output_fn, "likelihood": problem.likelihood}
    F = np.asarray(ef.fisher(problem.loss_fn, problem.params, x, **known))
    G = ef.per_example_gradients(problem.loss_fn, problem.params, x, y)
    g = oracles.mean_gradient(G)
    u = np.linalg.solve(F + 0.01 * np.eye(len(F)), g)
    rates = {"budget": np.sqrt(0.02 / (u @ F @ u)), "learning_rate": 0.02}
    for option, rate in rates.items() if name == "logistic" else [("budget", rates["budget"])]:
        update = ef.make_natural_update(*known.values(), damping=0.01, **{option: 0.02})
        moved, report = update(problem.params, x, y)
        delta = ravel_pytree(moved)[0] - ravel_pytree(problem.params)[0]
        np.testing.assert_allclose(delta, -rate * u, rtol=1e-8, atol=1e-10 * rate * np.abs(u).max())
        np.testing.assert_allclose(report.budget_spent, rate**2 * u @ F @ u, rtol=1e-8)
        np.testing.assert_allclose(report.predicted_decrease, rate * g @ u, rtol=1e-8)
        losses, after = (ef.per_example_losses(problem.loss_fn, at, x, y) for at in (problem.params, moved))
        np.testing.assert_allclose(report.loss, jnp.mean(losses), rtol=1e-12)
        np.testing.assert_allclose(report.actual_decrease, jnp.mean(losses - after), rtol=1e-8)
        assert report.residual < 1e-9
    unmeasured = ef.make_natural_update(*known.values(), damping=0.01, budget=0.02, measure=False)
    assert jax.eval_shape(unmeasured, problem.params, x, y)[1].actual_decrease is None


def test_tune_runs_every_setting_on_the_same_batches():
    optax = pytest.importorskip("optax")
    pytest.importorskip("tqdm")
    problem = ef.logistic_regression()
    options = {"steps": 6, "batch_size": 16, "key": jax.random.key(3), "progress": False}
    make = lambda rate: ef.optax_update(problem.loss_fn, optax.sgd(rate), problem.params)  # noqa: E731
    trials = ef.tune(make, [0.1, 0.5], problem.x, problem.y, **options)
    assert list(trials) == [0.1, 0.5]
    for rate, trial in trials.items():
        alone = ef.fit(*make(rate), problem.x, problem.y, **options)
        np.testing.assert_array_equal(trial.losses, alone.reports.loss)
        assert 0 < trial.seconds < 60
    assert trials[0.1].losses[0] == trials[0.5].losses[0]  # the same first batch
    assert trials[0.1].losses[-1] != trials[0.5].losses[-1]


# Messages of the network. `bare` goes round jaxtyping's hook, which would reject some of this first.

make = partial(oracles.bare(ef.make_update), line)
make_scale, solve = map(oracles.bare, (ef.scale_by_empirical_fisher, ef.solve_gram))
EYE, ONE, NEGATIVE = np.eye(3), np.array(jax.devices()[:1]), (-1.0, -1e-9, NAN, INF)
UNKNOWN = np.array([[1], [NAN], [1]])
FINITE, WHOLE = "must be finite and", "must be a whole number of at least 1; got"
FLOATS = "`params` must be a pytree of floating-point arrays; got"
GIVEN = "Exactly one of `budget` and `learning_rate` must be given; got"
MESH = "`mesh` must be a jax.sharding.Mesh with axes named 'examples' or 'parameters'; got"


def gram(loss_fn=line, params=THETA, x=X, y=Y4, **options):
    return oracles.bare(ef.loss_gram)(loss_fn, params, x, y, **options)


def update(params=THETA, x=X, y=Y4):
    return make(damping=0.1, budget=0.1)(params, x, y)


def go(steps=1, y=Y, key=None, **options):
    data = map(jnp.asarray, (THETA, XS, y))
    return oracles.bare(ef.fit)(descend, *data, steps=steps, key=key, progress=False, **options)


def split_over_eight(x):
    return oracles.bare(devices.split_examples)(jax.sharding.AbstractMesh((8,), ("examples",)), x, Y4)


def remember(n, memory):
    transformation = make_scale(0.1, decay=0.5, memory=memory)
    return transformation.update(example_gradients(n)[0], transformation.init(start()))


class Unhashable:
    __hash__ = None

    def __call__(self, params, x, y):
        return line(params, x, y)


REFUSED = [  # a call with a bad value, the message with its text, the bad values
    (lambda bad: make(damping=bad, budget=1), "`damping` " + FINITE + " at least 0; got {}.", NEGATIVE),
    (lambda bad: make(damping=1, budget=bad), "`budget` " + FINITE + " greater than 0", (0.0, *NEGATIVE)),
    (lambda bad: make(damping=1, learning_rate=bad), "`learning_rate` " + FINITE, (0.0, *NEGATIVE)),
    (lambda bad: make(damping=0.1, budget=bad), "`budget` must be one number", [np.ones(2)]),
    (lambda bad: make(damping=0.1, learning_rate=bad), "`learning_rate` must be one number", [np.ones(2)]),
    (lambda bad: make(damping=bad, budget=1), "`damping` must be one number; got shape (3,).", [np.ones(3)]),
    (lambda bad: make(damping=0.1, budget=0.1, learning_rate=bad), GIVEN + " both.", [0.1]),
    (lambda bad: make(damping=0.1, budget=bad), GIVEN + " none.", [None]),
    (lambda bad: make(damping=1, budget=1, mesh=Mesh(ONE, bad)), MESH + " axes {}. Use", [("batch",)]),
    (lambda bad: make(damping=0.1, budget=0.1, mesh=bad), MESH + " list.", [[1]]),
    (lambda bad: ef.make_update(bad, damping=1, budget=1), "`loss_fn` must be hashable", [Unhashable()]),
    (lambda bad: update(y=bad), "`x and y` must be arrays with one example a row, as many", [Y4[:3]]),
    (lambda bad: update(x=bad, y=Y4[:0]), "`x and y` must be non-empty; got 0 examples.", [X[:0]]),
    (lambda bad: update(bad), FLOATS + " int32 at the root.", [jnp.ones(2, jnp.int32)]),
    (lambda bad: gram(params=bad), FLOATS + " int64 at the root.", [np.ones(2, int)]),
    (lambda bad: gram(lambda *_: jnp.ones(()), bad), FLOATS + " int at ['b'][0]. Only", [{"b": [1]}]),
    (lambda bad: gram(lambda *_: jnp.ones(()), bad), FLOATS + " no array at all. Give at least one.", [{}]),
    (lambda bad: gram(bad), "`loss_fn` must be a function that returns one number", [lambda a, x, y: a * x]),
    (lambda bad: gram(bad), "`loss_fn` must be hashable, as it is compiled once", [Unhashable()]),
    (lambda bad: gram(y=bad), "as many in y as in x; got shape (4, 2) and shape (2,).", [Y4[:2]]),
    (lambda bad: gram(x=bad, y=Y4[:0]), "`x and y` must be non-empty; got 0 examples.", [X[:0]]),
    (lambda bad: gram(chunk_size=bad), "`chunk_size` " + WHOLE + " {}.", [0, 1.5]),
    (lambda bad: solve(bad), "`K` must be square (p, p); got shape ", [EYE[:2], EYE[:0, :0], EYE[0]]),
    (lambda bad: solve(bad), "`K` must be symmetric; got |K - Kᵀ| up to 1.", [np.tri(3)]),
    (lambda bad: solve(EYE * bad), "`K` must be finite; got NaN or infinity in 1 of 3 rows: 1.", [UNKNOWN]),
    (lambda bad: solve(EYE, bad), "`damping` " + FINITE + " at least 0; got {}.", NEGATIVE),
    (lambda bad: solve(EYE, bad), "`damping` must be one number; got shape (2,).", [np.ones(2)]),
    (lambda bad: solve(EYE, 0.1, bad), "`target` must be of shape (3,), one number an", [np.ones(2)]),
    (lambda bad: solve(EYE, 0.1, np.array([1, bad, 1])), "`target` must be finite; got NaN or", [INF]),
    (lambda bad: make_scale(bad), "`damping` " + FINITE + " at least 0", NEGATIVE),
    (lambda bad: make_scale(bad), "`damping` must be one number", [np.ones(3)]),
    (
        lambda bad: make_scale(1, decay=bad, memory=4),
        "`decay` must be at least 0 and below 1; got",
        [-0.1, 1.0, NAN],
    ),
    (lambda bad: make_scale(1, decay=0.5, memory=bad), "`memory` must be a number of rows where", [None]),
    (lambda bad: make_scale(0.1, decay=0.5, memory=bad), "`memory` " + WHOLE + " {}.", [0, -1, 2.5]),
    (lambda bad: remember(bad, 3), "`updates` must be of at most 3 examples, the memory; got {} ex", [4]),
    (lambda bad: go(bad), "`steps` " + WHOLE + " {}.", [0, -1, 2.5, True]),
    (lambda bad: go(batch_size=3, key=bad), "`key` must be a jax.random.key where batch_size", [None]),
    (lambda bad: go(batch_size=bad, key=1), "`batch_size` must be at most 7, the number of examples", [8]),
    (lambda bad: go(batch_size=bad, key=1), "`batch_size` " + WHOLE + " {}. For all examples", [0, 1.5]),
    (lambda bad: go(y=bad), "`x and y` must be arrays with one example a row", [np.ones(3)]),
    (lambda bad: go(checkpoint=bad), "`checkpoint` must be in a folder that exists; got {}.", ["no/run.npz"]),
]


@pytest.mark.parametrize(("call", "message", "values"), REFUSED)
def test_refuses(call, message, values):
    for bad in values:
        with raises(message.replace("{}", str(bad))):
            call(bad)
