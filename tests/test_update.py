"""The update of networks: against the step in float64, as a part of JAX and optax, and in a training loop."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from oracles import flat, line

import efisher_teach as ef
from efisher_teach.network import training

BUDGET = 0.01
NAN, INF = float("nan"), float("inf")


def softmax_loss(params, x, y):
    hidden = jnp.tanh(params["W"] @ x + params["b"])
    z = params["V"] @ hidden + params["c"]
    return jax.scipy.special.logsumexp(z) - z[y]


losses_of = jax.jit(partial(ef.per_example_losses, softmax_loss))
gradients_of = jax.jit(partial(ef.per_example_gradients, softmax_loss))


def network(dtype):
    """12 examples and 183 parameters: K has condition 61."""
    rng = np.random.default_rng(0)
    shapes = {"W": (12, 11), "b": (12,), "V": (3, 12), "c": (3,)}
    params = {name: rng.normal(size=shape) / np.sqrt(12) for name, shape in shapes.items()}
    params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, rng.normal(size=(12, 11))))
    return params, x, jnp.arange(12, dtype=jnp.int32) % 3


def expected(params, x, y, damping, option, value):
    """The parameters, the step Δ, and the first six fields of the report, each from its definition; in float64."""
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        G = np.asarray(gradients_of(params, x, y))
        u, g = oracles.direction(G, damping), oracles.mean_gradient(G)
        rate = value if option == "learning_rate" else np.sqrt(value / np.mean((G @ u) ** 2))
        before, unravel = ravel_pytree(params)
        loss, after = (np.mean(losses_of(each, x, y)) for each in (params, unravel(before - rate * u)))
    report = [loss, loss - after, rate * g @ u, np.mean((rate * G @ u) ** 2), rate, g @ u]
    return np.asarray(before), -rate * u, report


def identical(tree, other):
    """Equal to the last digit, NaN included; of one structure and dtype."""
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), tree, other)


# The update is the step.


@pytest.mark.parametrize("damping", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 0.0])
def test_update_is_the_step_and_reports_what_it_did(damping, dtype):
    params, x, y = network(dtype)
    options = {"budget": BUDGET} | ({"learning_rate": 0.3} if dtype == "float64" else {})  # spares compiling
    for option, value in options.items():
        moved, report = ef.make_update(softmax_loss, damping=damping, **{option: value})(params, x, y)
        theta, delta, wanted = expected(params, x, y, damping, option, value)
        # What is left of 16 digits where the condition is squared; of 7 digits, 5 of the step at every ε.
        close = 1e-5 if dtype == "float32" else 1e-10
        assert np.linalg.norm(flat(moved) - theta - delta) < close * np.linalg.norm(delta)
        for name, answer in zip(report._fields[:6], wanted, strict=True):
            # A difference of two losses is rounded like the losses.
            atol = 4 * oracles.unit(dtype) * wanted[0] if name == "actual_decrease" else 0
            np.testing.assert_allclose(getattr(report, name), answer, rtol=close, atol=atol, err_msg=name)
        assert report.finite
        assert 0 <= report.residual < close
        assert {leaf.dtype for leaf in jax.tree.leaves((moved, report[:7]))} == {jnp.dtype(dtype)}
        # To rounding, not only closely.
        spent = report.budget_spent if option == "budget" else report.learning_rate
        np.testing.assert_allclose(spent, value, rtol=10 * oracles.unit(dtype))


# Where there is no step.


def biased(params, x, y):
    return line(params["theta"], x, y - params["bias"])


def well(theta, x, y):
    """Overflows in float32 from |θx| = 89 on."""
    return jnp.sum(jnp.cosh(theta * x)) + y


X = np.array([[1.0, 0.5], [1.0, 0.5], [-0.3, 2.0], [-0.3, 2.0]], np.float32)
Y4, THETA = np.arange(4, dtype=np.float32), np.array([0.1, -0.7], np.float32)


@pytest.mark.parametrize("option", [{"budget": BUDGET}, {"learning_rate": 0.3}], ids=["budget", "rate"])
def test_gradients_that_cancel_leave_the_parameters_as_they_are(option):
    """Each input with two targets, as far below as above: g is 0 but for rounding, the gradients are not."""
    x, theta, off = jnp.asarray(X), jnp.asarray(THETA), jnp.asarray([1.0, -1.0, 2.0, -2.0])
    y = x @ theta + off
    for damping in (0.0, 0.1):
        update = ef.make_update(line, damping=damping, **option)
        # Also a fit without any error, where all gradients are 0.
        for start, targets, loss in (theta, y, 1.25), (jnp.zeros(2), jnp.zeros(4), 0):
            moved, report = update(start, x, targets)
            identical(moved, start)
            # A rate that was given is reported as it was given.
            wanted = [loss, 0, 0, 0, option.get("learning_rate", 0), 0, 0, True]
            np.testing.assert_allclose(report[:8], wanted, rtol=1e-6)
        # A thousandth beside it there is a step.
        moved, report = update(theta, x, y.at[0].add(1e-3))
        assert not np.array_equal(moved, theta)
        assert report.learning_rate > 0


FAR, FARTHER = {"learning_rate": 1e3}, {"learning_rate": 3e38, "damping": 1e-3}
HALF = THETA.astype(np.float16), 1e-3 * X[1:3], np.full(2, 1e3, np.float32)
HUGE = np.array([1e25, 1], np.float32), X * np.float32([0, 1]), Y4
EXTREMES = {  # loss_fn, θ, x, y, options; and whether the step is taken if measured, and if not
    "numbers whose squares are not finite": (line, *HUGE, {"budget": BUDGET}, True, True),
    "the loss after it": (well, THETA, X, 0 * Y4, FAR, False, True),  # not measured, it is not known
    "the step": (well, THETA, X / 10, 0 * Y4, FARTHER, False, False),
    "too long for float16": (line, *HALF, {"learning_rate": 1e6, "damping": 0.0}, False, False),
    "x": (well, THETA, np.where(X < 0, np.float32(NAN), X), 0 * Y4, FAR, False, False),
    "y": (well, THETA, X, np.where(Y4 > 2, np.float32(INF), Y4), FAR, False, False),
}


@pytest.mark.parametrize("what", EXTREMES)
def test_a_step_that_is_not_finite_is_not_taken(what):
    loss_fn, *data, options, if_measured, if_not = EXTREMES[what]
    theta, x, y = map(jnp.asarray, data)
    for measure, taken in (True, if_measured), (False, if_not):
        update = ef.make_update(loss_fn, **{"damping": 0.1} | options, measure=measure)
        moved, report = update(theta, x, y)
        assert report.finite == taken
        assert np.array_equal(moved, theta) != taken
        assert [np.isfinite(moved).all(), np.isfinite(report.loss)] == [True, what not in "xy"]
        assert (report.actual_decrease is None) != measure


# As a part of JAX.


def test_other_numbers_do_not_compile_again():
    traces = []

    def counted(theta, x, y):
        traces.append(None)
        return line(theta, x, y)

    first, _ = ef.make_update(counted, damping=0.1, budget=0.1)(THETA, X, Y4)
    assert traces
    traces.clear()
    for damping, budget in (0.0, 0.2), (1e-3, np.float64(0.3)), (np.float32(0.1), jnp.asarray(1e-4)), (1, 2):
        moved, _ = oracles.bare(ef.make_update)(counted, damping=damping, budget=budget)(THETA, X, Y4)
        assert not np.array_equal(moved, first)
    assert traces == []


def test_inside_jit_and_scan():
    """A loop of jitted updates, one jitted loop on a mesh of one device, ε and c that are traced: the same."""
    x, y = jnp.asarray(XS[:6]).reshape(3, 2, 2), jnp.asarray(Y[:6]).reshape(3, 2)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("examples", "parameters"))
    theta = jnp.asarray(THETA)
    for batch in zip(x, y, strict=True):
        theta, report = jax.jit(preconditioned)(theta, *batch)

    @jax.jit
    def loop(damping, budget):
        update = ef.make_update(line, damping=damping, budget=budget, mesh=mesh)
        return lax.scan(lambda theta, batch: update(theta, *batch), jnp.asarray(THETA), (x, y))

    last, stacked = loop(0.1, BUDGET)
    np.testing.assert_allclose(last, theta, rtol=1e-5)
    # A residual is rounding itself.
    np.testing.assert_allclose(np.stack(stacked[:8])[:, -1], report[:8], rtol=1e-4, atol=1e-5)
    other, _ = loop(10.0, 2 * BUDGET)
    assert oracles.relative(other, theta) > 0.01


def test_mixed_parameters_keep_their_precisions(x64):
    """The report has the highest."""
    params = {"theta": jnp.asarray(THETA), "bias": jnp.asarray(0.1, float)}
    update = ef.make_update(biased, damping=np.float64(0.1), budget=np.float64(BUDGET))
    moved, report = update(params, jnp.asarray(X), jnp.asarray(Y4))
    assert moved["theta"].dtype == jnp.float32
    assert moved["bias"].dtype == report.loss.dtype == jnp.float64
    G = (X @ THETA + 0.1 - Y4)[:, None] * np.column_stack([np.ones(4), X])
    u = oracles.direction(G, 0.1)
    step = -u * np.sqrt(BUDGET / np.mean((G @ u) ** 2))
    assert oracles.relative(flat(moved) - flat(params), step) < 1e-5


# The transformation for optax.


def example_gradients(n, seed, dtype):
    """A pytree of per-example gradients, and the same as G."""
    G = np.random.default_rng(seed).normal(size=(n, 5))
    return {"a": jnp.asarray(G[:, :2], dtype), "b": jnp.asarray(G[:, 2:], dtype).reshape(n, 3, 1)}, G


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("decay", "memory"), [(0.0, None), (0.8, 20), (0.8, 6)])
def test_transformation_is_the_direction_by_a_running_average(decay, memory, dtype, x64):
    """Batches of unequal sizes by their definition. Six rows: the last batch, and the newest of the one before."""
    transformation = ef.scale_by_empirical_fisher(0.1, decay=decay, memory=memory)
    params = jax.tree.map(lambda leaf: leaf[0], example_gradients(1, 0, dtype)[0])
    update, state, past, total = jax.jit(transformation.update), transformation.init(params), [], 0.0
    for step, n in enumerate((4, 4, 4, 3, 4)):
        updates, G = example_gradients(n, step, dtype)
        out, state = update(updates, state)
        assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, params)
        past = ([(row, step, n) for row in G] + past)[: memory or n]
        total = decay * total + (1 - decay)
        C = sum((1 - decay) * decay ** (step - of) / of_n * np.outer(row, row) for row, of, of_n in past)
        wanted = np.linalg.solve(C / total + 0.1 * np.eye(5), oracles.mean_gradient(G))
        np.testing.assert_allclose(flat(out), wanted, rtol=1e-9 if dtype == "float64" else 1e-4)
        assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(memory or 0, 5), (memory or 0,), ()]
    assert {leaf.dtype for leaf in jax.tree.leaves((out, state))} == {jnp.dtype(dtype)}


def test_damping_by_a_schedule_of_optax(x64):
    """Its dampings are float32."""
    make = oracles.bare(ef.scale_by_empirical_fisher)  # optax makes an array of the default of `decay`, too
    scaled = optax.inject_hyperparams(make)(damping=optax.exponential_decay(0.1, 1, 0.5))
    update, state = jax.jit(scaled.update), scaled.init({"a": jnp.zeros(2), "b": jnp.zeros((3, 1))})
    for step in range(3):
        updates, G = example_gradients(4, step, float)
        out, state = update(updates, state)
        np.testing.assert_allclose(flat(out), oracles.direction(G, 0.1 * 0.5**step), rtol=1e-5)


# The loop. Its updates are small, and say which examples they saw.


class Seen(NamedTuple):
    loss: Any
    examples: Any


@jax.jit
def descend(theta, x, y):
    """Gradient descent with a rate that makes the loss of small batches go up and down."""
    loss, g = jax.value_and_grad(lambda theta: jnp.mean(jax.vmap(line, (None, 0, 0))(theta, x, y)))(theta)
    return theta - 0.3 * g, Seen(loss, y)


N, Y = 7, np.arange(7, dtype=np.float32)
XS = np.random.default_rng(5).normal(size=(N, 2)).astype(np.float32)
preconditioned = ef.make_update(line, damping=0.1, budget=BUDGET)


def run(update=descend, params=THETA, x=XS, y=Y, **options):
    """`fit` in silence; batches of 3 of 7, two of them an epoch."""
    options = {"steps": 9, "batch_size": 3, "key": jax.random.key(11), "progress": False} | options
    params, x, y = jax.tree.map(jnp.asarray, (params, x, y))
    return ef.fit(update, params, x, y, **options)


def failing_after(steps, error):
    """An update that raises an error when so many steps are done."""
    left = iter(range(steps))

    def update(*arguments):
        if next(left, None) is None:
            raise error
        return descend(*arguments)

    return update


@pytest.mark.parametrize("batch_size", [None, 3])
def test_fit_is_the_loop_by_hand(batch_size):
    """The loss is that before a step: the best parameters are those that came in. Every callback is called."""
    calls, came_in = [], [jnp.asarray([5.0, -5.0])]
    callbacks = lambda step, *_: step == 7, lambda *arguments: calls.append(arguments)
    found = run(params=came_in[0], batch_size=batch_size, callbacks=iter(callbacks))
    assert found.stopped == "by a callback"
    for step, seen in enumerate(found.reports.examples):
        # x and y stay together.
        theta, report = descend(came_in[-1], jnp.asarray(XS[seen.astype(int)]), jnp.asarray(seen))
        identical(calls[step], (step, theta, report))
        came_in.append(theta)
    assert len(calls) == 8
    identical(found.params, came_in[8])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found.reports))
    identical(found.best, came_in[int(np.argmin(found.reports.loss))])
    assert batch_size is None or 0 < np.argmin(found.reports.loss) < 7


def test_batches_go_through_every_example_once():
    """The order is another one in each epoch, and with another key."""
    np.testing.assert_array_equal(np.sort(run(x=XS[:6], y=Y[:6], steps=2).reports.examples, axis=None), Y[:6])
    # 7 in batches of 3: one is left out, not always the same, and none comes twice.
    runs = [run(steps=20, key=jax.random.key(seed)).reports.examples.reshape(10, 6) for seed in (11, 1)]
    assert all(len(set(epoch)) == 6 for epoch in runs[0])
    assert len({tuple(epoch) for epoch in runs[0]}) == 10
    assert len({*Y} - set.intersection(*map(set, runs[0]))) > 1
    assert not np.array_equal(*runs)


def test_fit_takes_any_iterable_of_batches(tmp_path):
    batches = [(jnp.asarray(XS[rows]), jnp.asarray(Y[rows])) for rows in (slice(3), slice(3, 7))]
    fitted = partial(ef.fit, descend, jnp.asarray(THETA), progress=False)
    runs = [fitted(given, steps=5) for given in (batches, tuple(batches), iter(batches))]
    assert [run.stopped for run in runs] == ["all steps done"] * 2 + ["no more batches"]
    after = [jnp.asarray(THETA)]
    for step in range(5):
        after.append(descend(after[-1], *batches[step % 2])[0])
    identical([run.params for run in runs], [after[5], after[5], after[2]])
    assert [seen.tolist() for seen in runs[2].reports.examples] == [[0, 1, 2], [3, 4, 5, 6]]
    with pytest.raises(ValueError, match="`checkpoint` must be left out, or every report of one shape; got"):
        fitted(batches, steps=5, checkpoint=tmp_path / "run.npz")
    assert len(fitted([batches[0]], steps=2, checkpoint=tmp_path / "run.npz").reports.loss) == 2


def test_fit_gives_a_key_to_each_step(tmp_path):
    """Another one at each; also where a key is in the state, and in the file; and the same where it goes on."""

    def update(state, x, y, key):
        theta, own = state
        return (theta, jax.random.fold_in(own, 1)), Seen(jnp.zeros(()), jax.random.key_data(key))

    update.needs_key = True
    go = partial(run, update, (jnp.asarray(THETA), jax.random.key(7)), batch_size=None)
    go(steps=2, checkpoint=tmp_path / "run.npz")
    on, whole = go(checkpoint=tmp_path / "run.npz"), go()
    identical(on.reports, whole.reports)
    assert on.params[1] == whole.params[1]
    assert len({tuple(key) for key in whole.reports.examples}) == 9
    assert ef.make_update(line, damping=0.1, budget=BUDGET, needs_key=True).needs_key


PRESSED, BROKEN = KeyboardInterrupt(), RuntimeError("broken")
STOPS = {  # what ends a run, after how many steps (5 is in the middle of an epoch), and what it then says
    "steps": (lambda: {"steps": 5}, 5, "all steps done"),
    "a callback": (lambda: {"callbacks": [lambda step, *_: step == 4]}, 5, "by a callback"),
    "ctrl-c": (lambda: {"update": failing_after(5, PRESSED)}, 5, "interrupted"),
    "ctrl-c at once": (lambda: {"update": failing_after(0, PRESSED)}, 0, "interrupted"),
    "an error": (lambda: {"update": failing_after(5, BROKEN)}, 5, None),
    "a power cut": (dict, 5, None),
}


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("stop", STOPS)
def test_goes_on_as_if_it_had_never_stopped(stop, batch_size, tmp_path, monkeypatch):
    go, path, calls, there = partial(run, batch_size=batch_size), tmp_path / "run.npz", [], []
    (options, done, says), whole = STOPS[stop], go()
    if stop == "a power cut":  # what lies there while it runs, after every step but the first
        monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", -1)
        go(checkpoint=str(path), callbacks=[lambda step, *_: step and there.append(path.read_bytes())])
        path.write_bytes(there[done - 1])
    elif stop == "an error":
        with pytest.raises(RuntimeError, match="broken"):
            go(checkpoint=path, **options())
    else:
        part = go(checkpoint=path, **options())
        assert part.stopped == says
        identical(part.reports, jax.tree.map(lambda leaf: leaf[:done], whole.reports) if done else ())
    assert list(tmp_path.iterdir()) == [path] * (done > 0)
    for left in range(done, 9), []:  # the second time, all is done
        calls.clear()
        on = go(checkpoint=path, callbacks=[lambda step, *_: calls.append(step)])
        identical(on, whole)
        assert calls == [*left]


def test_what_is_not_finite_ends_the_loop(tmp_path):
    """A NaN target: the update leaves the parameters as they were, and so does the file."""
    path, start = tmp_path / "run.npz", jnp.asarray(THETA)
    bad = run(steps=2).reports.examples[1, 0]  # seen in the second step
    found = run(preconditioned, y=np.where(bad == Y, np.float32(NAN), Y), checkpoint=path)
    assert found.stopped == "not finite"
    assert found.reports.finite.tolist() == [True, False]
    identical((found.params, found.best), (run(preconditioned, steps=1).params, start))
    # With the data repaired it goes on.
    on = run(preconditioned, checkpoint=path)
    assert on.stopped == "all steps done"
    assert on.reports.finite.tolist() == [True, False] + 7 * [True]
    # A step that is not finite, after a loss that was.
    far = run(ef.make_update(well, damping=0.1, **FAR), x=1 + 0 * XS, y=0 * Y, batch_size=None)
    assert (far.stopped, len(far.reports.loss)) == ("not finite", 1)
    identical(far.params, start)
    # An update of others, which says nothing of `finite`, ends by its loss.
    found = run(lambda theta, x, y: (1e9 * theta, descend(theta, x, y)[1]))
    assert found.stopped == "not finite"
    assert np.isfinite(found.reports.loss).tolist() == [True] * (len(found.reports.loss) - 1) + [False]
    identical(found.best, start)


def test_checkpoint_of_another_run_or_damaged_and_a_crash(tmp_path, monkeypatch):
    """Each leaves the file as it is."""

    def crash(file, *arrays):
        file.write(b"half a file")
        raise OSError("disk full")

    path = tmp_path / "run.npz"
    run(steps=2, checkpoint=path)  # of θ (2,) in float32, with the reports of `descend`
    others = {"parameters": {"params": np.ones(3), "x": np.ones((N, 3))}}
    others |= {"reports": {"update": preconditioned}, "precision": {"params": jnp.asarray(THETA, "bfloat16")}}
    content = path.read_bytes()
    place = content.index(np.load(path)["arr_0"].tobytes())  # the first number of θ, in the middle of a zip
    wrong = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    files = {**dict.fromkeys(others, content), "cut": content[: len(content) // 2], "a wrong byte": wrong}
    for name, file in files.items():
        path.write_bytes(file)
        with pytest.raises(ValueError, match=r"`checkpoint` must be a file of these .*or delete the file"):
            run(checkpoint=path, **others.get(name, {}))
        assert path.read_bytes() == file, name
    path.write_bytes(content)
    monkeypatch.setattr(np, "savez", crash)
    with pytest.raises(OSError, match="disk full"):
        run(checkpoint=path)
    assert path.read_bytes() == content


def test_adam_keeps_its_state_in_the_parameters(tmp_path):
    """Also in a checkpoint, and also that of parameters in bfloat16, for which NumPy has no name."""
    params = {"theta": jnp.asarray(THETA), "bias": jnp.asarray(0.5, jnp.bfloat16)}
    update, start = ef.optax_update(biased, optax.adam(0.1), params)
    whole, path = run(update, start), tmp_path / "run.npz"
    run(update, start, steps=5, checkpoint=path)
    identical(run(update, start, checkpoint=path), whole)
    assert whole.params[1][0].count == 9


def test_progress_bar(capsys, tmp_path):
    run(steps=4, checkpoint=tmp_path / "run.npz")
    assert capsys.readouterr() == ("", "")
    found = run(progress=True, checkpoint=tmp_path / "run.npz")
    written = capsys.readouterr()
    for shown in f"loss={found.reports.loss[-1]:.4g}", "4/9", "9/9":  # a resumed run does not begin at 0
        assert shown in written.err
    assert written.out == ""


# What it is compared with


@pytest.mark.parametrize("hidden", [None, (5,)])
def test_natural_update_is_the_step_by_the_dense_fisher(hidden, x64):
    """The labels that a model believes in make rows of the same F, with g in their range: more than p, and fewer."""
    problem = ef.digits(hidden, side=4) if hidden else ef.linear_regression()
    params, x, y = problem.params, problem.x[:6], problem.y[:6]
    known = {"output_fn": problem.output_fn, "likelihood": problem.likelihood}
    F = np.asarray(jax.jit(partial(ef.fisher, problem.loss_fn, **known))(params, x))
    losses, G = oracles.singly(problem.loss_fn, params, x, y)
    loss, g = losses.mean(), G.mean(axis=0)
    u = np.linalg.solve(F + 0.01 * np.eye(len(F)), g)
    rate = np.sqrt(0.02 / (u @ F @ u))
    update = partial(ef.make_natural_update, **known, damping=0.01, budget=0.02)
    moved, report = update()(params, x, y)
    assert oracles.relative(flat(moved) - flat(params), -rate * u) < 1e-8
    after = np.mean(oracles.singly(problem.loss_fn, moved, x, y)[0])
    wanted = [loss, loss - after, rate * g @ u, 0.02, rate, g @ u, 0, True]
    np.testing.assert_allclose(report[:8], wanted, rtol=1e-8, atol=1e-9)
    assert jax.eval_shape(update(measure=False), params, x, y)[1].actual_decrease is None


def test_tune_runs_every_setting_on_the_same_batches():
    """The batches are those of `fit`; and gradient descent by optax is gradient descent."""
    options = {"steps": 9, "batch_size": 3, "key": jax.random.key(11), "progress": False}
    make = lambda rate: ef.optax_update(line, optax.sgd(rate), jnp.asarray(THETA))  # noqa: E731
    trials = ef.tune(make, [0.3, 0.1], jnp.asarray(XS), jnp.asarray(Y), **options)
    for rate, trial in trials.items():
        np.testing.assert_array_equal(trial.losses, run(*make(rate)).reports.loss)
    np.testing.assert_allclose(trials[0.3].losses, run().reports.loss, rtol=1e-5)
