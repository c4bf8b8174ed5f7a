"""Every error message: which argument, what it must be, what it was, what to do.

`bare` goes round jaxtyping's hook, which would reject some of this before the library sees it.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import bare

import efisher_teach as ef
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.likelihoods import bernoulli, gaussian
from efisher_teach.core.precondition import precondition
from efisher_teach.core.solve import solve_spectral, spectrum

G = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
C, g = ef.empirical_fisher(G), ef.mean_gradient(G)
NAN, INF = float("nan"), float("inf")
x, y, theta = jnp.ones((3, 2)), jnp.ones(3), jnp.ones(2)


def loss(theta, x, y):
    return (x @ theta - y) ** 2 / 2


def step(G=G, **options):
    return bare(ef.empirical_fisher_step)(G, **options)


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize("value", [-1.0, -1e-9, NAN, INF])
@pytest.mark.parametrize(
    "call",
    [
        lambda e: step(damping=e, budget=0.1),
        lambda e: bare(ef.solve_primal)(C, g, e),
        lambda e: bare(ef.solve_dual)(G, e),
        lambda e: bare(solve_spectral)(spectrum(G), e),
        lambda e: bare(solve_spectral)(spectrum(G), jnp.array([0.1, e])),
        lambda e: bare(ef.damping_path)(G, jnp.array([0.1, e]), 0.1),
    ],
    ids=["step", "primal", "dual", "spectral", "spectral grid", "path"],
)
def test_damping(call, value):
    with raises("`damping` must be finite and at least 0; got ") as caught:
        call(value)
    assert repr(value) in str(caught.value) or "[" in str(caught.value)  # a grid is shown whole
    assert "Use 0 for the pseudo-inverse" in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -0.5, NAN, INF])
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("budget", lambda c: step(budget=c)),
        ("budget", lambda c: bare(ef.damping_path)(G, jnp.ones(2), c)),
        ("learning_rate", lambda c: step(learning_rate=c)),
        ("learning_rate", lambda c: bare(ef.descend)(ef.linear_regression(4), steps=1, learning_rate=c)),
        ("noise", lambda c: bare(ef.linear_regression)(noise=c)),
        ("separation", lambda c: bare(ef.logistic_regression)(separation=c)),
        ("budget", lambda c: bare(ef.two_budget_step)(G, c, 1.0)),
        ("radius", lambda c: bare(ef.two_budget_step)(G, 0.1, c)),
        ("budget", lambda c: bare(ef.targeted_step)(G, y, budget=c)),
    ],
    ids=["step", "path", "rate", "descend", "noise", "separation", "two", "radius", "targeted"],
)
def test_positive(argument, call, value):
    with raises(f"`{argument}` must be finite and greater than 0; got {value}. "):
        call(value)


def test_exactly_one_of_budget_and_learning_rate():
    message = "Exactly one of `budget` and `learning_rate` must be given; got "
    with raises(message + "both. A budget c fixes"):
        step(budget=0.1, learning_rate=0.1)
    with raises(message + "none. A budget c fixes"):
        step()


TAKE_G = {
    "step": lambda G: step(G, budget=0.1),
    "path": lambda G: bare(ef.damping_path)(G, jnp.ones(2), 0.1),
    "mean_gradient": bare(ef.mean_gradient),
    "empirical_fisher": bare(ef.empirical_fisher),
    "gram": bare(ef.gram),
    "covariance": bare(ef.gradient_covariance),
    "targeted": lambda G: bare(ef.targeted_step)(G, jnp.ones(3)),
    "two budgets": lambda G: bare(ef.two_budget_step)(G, 0.1, 1.0),
    "spectrum": bare(spectrum),
    "dual": bare(ef.solve_dual),
}


@pytest.mark.parametrize("call", TAKE_G.values(), ids=TAKE_G)
def test_gradients(call):
    with raises("`G` must be 2-D, one gradient a row (n, p); got shape (3,). Use per_example_gradients("):
        call(jnp.ones(3))
    with raises(
        "`G` must be 2-D, one gradient a row (n, p); got shape (2, 3, 4). Use per_example_gradients("
    ):
        call(jnp.ones((2, 3, 4)))
    for shape in [(0, 2), (3, 0)]:
        with raises(
            f"`G` must be non-empty; got shape {shape}. Give at least one example and one parameter."
        ):
            call(jnp.ones(shape))
    with raises("`G` must be finite; got NaN or infinity in 2 of 4 rows: 1, 3. Look at these examples"):
        call(jnp.ones((4, 2)).at[1, 0].set(NAN).at[3, 1].set(-INF))
    with raises("in 7 of 8 rows: 1, 2, 3, 4, 5, …. Look at these examples"):
        call(jnp.full((8, 2), NAN).at[0].set(1))
    with raises("`G` must be real; got dtype complex64. Take its real part"):
        call(jnp.ones((2, 2), complex))
    with raises("`G` must be an array of real numbers; got str. Convert it with jnp.asarray."):
        call("G")


def test_whole_numbers_are_taken_as_real():
    np.testing.assert_allclose(bare(ef.empirical_fisher)([[1, 0], [2, 1], [0, 3]]), C)
    assert bare(ef.mean_gradient)(np.array([[1, 2]])).dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e25, 1e36])
@pytest.mark.parametrize("name", ["step", "path"])
def test_a_step_that_is_not_finite(name, scale):
    """λ = σ² overflows in float32: an error, never a silent NaN."""
    with raises("Its scale leaves no room in this precision: rescale the loss."):
        TAKE_G[name](scale * G)


TAKE_EXAMPLES = {
    "losses": bare(ef.per_example_losses),
    "gradients": bare(ef.per_example_gradients),
    "weighted": lambda *arguments: bare(ef.weighted_gradient)(*arguments, jnp.ones(3)),
    "hessian": bare(ef.hessian),
    "changes": lambda *arguments: bare(ef.loss_changes)(*arguments, jnp.ones(2)),
    "gauss_newton": lambda loss, *data: bare(ef.gauss_newton)(
        lambda theta, x: theta * x, lambda z, y: loss(z, jnp.ones(2), y), *data
    ),
}


@pytest.mark.parametrize("call", TAKE_EXAMPLES.values(), ids=TAKE_EXAMPLES)
def test_examples(call):
    message = "`x and y` must be arrays with one example a row, as many in y as in x; got "
    with raises(message + "shape (3, 2) and shape (4,). For one example, use x[None] and y[None]."):
        call(loss, theta, x, jnp.ones(4))
    with raises(message + "shape (2,) and shape ()."):
        call(loss, theta, x[0], y[0])
    with raises("`x and y` must be non-empty; got 0 examples."):
        call(loss, theta, x[:0], y[:0])
    message = "`loss_fn` must be a function that returns one number, the loss of one example; got "
    with raises(message + "shape (2,). It gets ONE example, without a batch axis"):
        call(lambda theta, x, y: x * theta, theta, x, y)
    with raises(message + "tuple. It gets ONE example"):
        call(lambda theta, x, y: (loss(theta, x, y), y), theta, x, y)


def test_gradient_that_is_undefined():
    """√0 has no derivative at the example whose x is 0."""
    with raises("`loss_fn` must be finite; got NaN or infinity in 1 of 3 rows: 1. Its gradient overflows"):
        bare(ef.per_example_gradients)(
            lambda theta, x, y: jnp.sqrt(theta[0] * x), jnp.ones(1), jnp.array([1.0, 0.0, 2.0]), y
        )


@pytest.mark.parametrize("value", [0, -2, 1.5, True])
def test_chunk_size(value):
    with raises(
        f"`chunk_size` must be a whole number of at least 1; got {value!r}. For all at once, leave it out."
    ):
        bare(ef.per_example_gradients)(loss, theta, x, y, chunk_size=value)


@pytest.mark.parametrize("shape", [(4,), (3, 1), ()])
def test_weights(shape):
    with raises(f"`weights` must be of shape (3,), one an example; got shape {shape}. Ravel it."):
        bare(ef.weighted_gradient)(loss, theta, x, y, jnp.ones(shape))


def test_matrix_and_gradient():
    solve = bare(ef.solve_primal)
    for shape in [(3, 2), (3,), (0, 0)]:
        with raises(f"`C` must be square (p, p); got shape {shape}. Use empirical_fisher(G)"):
            solve(jnp.ones(shape), g)
    with raises("`g` must be of shape (2,), as C is (2, 2); got shape (3,). Use mean_gradient(G)"):
        solve(C, jnp.ones(3))
    with raises("`C` must be symmetric; got |C - Cᵀ| up to 0.5. Use empirical_fisher(G), or (C + C.T)/2."):
        solve(C.at[0, 1].add(0.5), g)
    with raises("`C` must be finite; got NaN or infinity in 1 of 2 rows: 0. It was computed from gradients"):
        solve(C.at[0, 0].set(NAN), g)
    with raises("`g` must be finite; got NaN or infinity in 1 of 2 rows: 1. It was computed from gradients"):
        solve(C, g.at[1].set(INF))


def test_another_sample():
    """Without damping the loss could fall without limit at no cost; with damping there is a step."""
    solve, lean = bare(ef.solve_primal), ef.empirical_fisher(jnp.array([[1.0, 0.0]]))
    with raises(
        "`g` must lie in the range of `C` when `damping` is 0; got a part g⊥ of length 1 (of 1.41) outside it."
    ):
        solve(lean, jnp.ones(2))
    with raises("C and g come from different examples"):
        solve(lean, jnp.ones(2), 0.0)
    np.testing.assert_allclose(solve(lean, jnp.ones(2), 0.1), [1 / 1.1, 10], rtol=1e-5)
    np.testing.assert_allclose(solve(lean, jnp.array([2.0, 0.0])), [2, 0], rtol=1e-5)  # the same sample


@pytest.mark.parametrize("shape", [(), (2, 2), (0,)])
def test_dampings(shape):
    with raises(
        f"`dampings` must be 1-D and non-empty; got shape {shape}. Use e.g. jnp.logspace(-6, 2, 50)."
    ):
        bare(ef.damping_path)(G, jnp.ones(shape), 0.1)


@pytest.mark.parametrize("features", [1, 3, 30, "all", (), ("mean radius", "colour")])
def test_features(features):
    with raises(
        f"`features` must be 2, None, or a tuple of names of measurements; got {features!r}. 2 can be drawn; "
        "None takes all 30: mean radius, mean texture, "
    ):
        bare(ef.breast_cancer)(features)


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("n", lambda n: bare(ef.linear_regression)(n)),
        ("p", lambda p: bare(ef.linear_regression)(4, p)),
        ("n", lambda n: bare(ef.logistic_regression)(n)),
        ("p", lambda p: bare(ef.logistic_regression)(4, p)),
        ("steps", lambda steps: bare(ef.descend)(ef.linear_regression(4), steps=steps)),
        ("hidden", lambda width: bare(ef.digits)((8, width))),
        ("sampled", lambda m: fisher(sampled=m, key=jax.random.key(0))),
    ],
    ids=["linear n", "linear p", "logistic n", "logistic p", "steps", "hidden", "sampled"],
)
def test_whole_numbers(argument, call, value):
    with raises(f"`{argument}` must be a whole number of at least 1; got {value!r}."):
        call(value)


def test_descent_that_diverges():
    with raises("The descent diverged: make it smaller.") as caught:
        bare(ef.descend)(ef.linear_regression(8), steps=100, learning_rate=100.0)
    assert str(caught.value).startswith("`learning_rate` must be ")


def test_traced_values_pass():
    """Under jit, vmap and grad no value is known: no error."""
    traced = jax.jit(lambda G, damping: step(G, damping=damping, budget=0.1))
    assert jnp.isfinite(traced(G, 0.1).residual)
    assert traced(G, -1.0).delta.shape == (2,)
    assert jax.vmap(lambda c: step(budget=c).delta)(jnp.array([0.1, 0.2])).shape == (2, 2)
    assert jnp.isfinite(jax.grad(lambda damping: step(damping=damping, budget=0.1).delta.sum())(0.1))


@pytest.mark.parametrize("value", [NAN, INF])
def test_under_jit_the_result_says_that_gradients_are_not_finite(value):
    """It must not look like the step of a zero gradient."""
    traced = jax.jit(lambda G: step(G, budget=0.1))(G.at[0, 0].set(value))
    assert not jnp.isfinite(traced.residual)
    assert not jnp.isfinite(traced.delta).any()


@pytest.mark.parametrize("name", ["damping", "budget", "learning_rate"])
def test_scalars_are_scalars(name):
    """Several dampings are damping_path's; several budgets are vmap's."""
    options = {"budget": 0.1} if name == "damping" else {}
    with raises(f"`{name}` must be "):
        step(**options, **{name: jnp.ones(3)})


def fisher(
    loss=lambda theta, x, y: bernoulli.loss(x @ theta, y), theta=theta, x=x, output_fn=None, **options
):
    output_fn = output_fn or (lambda theta, x: x @ theta)
    return bare(ef.fisher)(loss, theta, x, output_fn=output_fn, likelihood=bernoulli, **options)


def pole(theta, x):
    return theta[0] / x[0]


def root(theta, x):
    """√0 is 0, but has no derivative."""
    return jnp.sqrt(theta[0] * x[0])


def power(z, y):
    """|z|^1.5 has no second derivative at 0."""
    return jnp.sum(jnp.abs(z) ** 1.5)


def changes(delta):
    return bare(ef.loss_changes)(lambda theta, x, y: jnp.exp(theta[0] * x[0]) - y, at, column, y, delta)


form, ratios = bare(ef.quadratic_form), bare(ef.generalised_eigenvalues)
newton, targeted, gram = bare(ef.gauss_newton), bare(ef.targeted_step), bare(ef.solve_gram)
column, at, HUGE, skew = jnp.array([[1.0], [0.0], [2.0]]), jnp.ones(1), 1e30 * G, C.at[0, 1].add(0.5)
ROW = "must be finite; got NaN or infinity in 1 of 3 rows: 1. "
DEFINITE = "`B` must be positive definite; got eigenvalues from "
FINITE = "must be such that the result is finite; got NaN or infinity in it. "
TABLE = [
    (
        lambda: fisher(sampled=3),
        "`key` must be given where labels are sampled; got None. Use e.g. jax.random.key(0).",
    ),
    (lambda: fisher(x=x[:0]), "`x and y` must be non-empty; got 0 examples. Give at least one example."),
    (lambda: fisher(x=jnp.ones(())), "`x and y` must be arrays with one example a row"),
    (lambda: per_example_jacobians(root, at, column[:0]), "`x and y` must be non-empty; got 0 examples."),
    (
        lambda: fisher(lambda theta, x, y: pole(theta, x), at, column, pole),
        "`output_fn` " + ROW + "The model overflows",
    ),
    (
        lambda: fisher(lambda theta, x, y: root(theta, x), at, column, root),
        "`loss_fn` " + ROW + "Its gradient overflows",
    ),
    (
        lambda: per_example_jacobians(root, at, column),
        "`output_fn` " + ROW + "Its derivative overflows or is undefined",
    ),
    (lambda: newton(root, bernoulli.loss, at, column, y), "`output_fn` " + ROW + "Its derivative overflows"),
    (
        lambda: newton(lambda t, x: t * x, power, at, column, y),
        "`output_loss` " + ROW + "Its second derivative is undef",
    ),
    (
        lambda: bare(ef.hessian)(lambda t, x, y: power(t * x, y), at, column, y),
        "in 1 of 1 rows: 0. Its second derivat",
    ),
    *[
        (call, message)
        for name, other in [
            ("A", lambda A: form(A, theta)),
            ("A", lambda A: ratios(A, C)),
            ("B", lambda B: ratios(C, B)),
        ]
        for call, message in [
            (
                lambda other=other: other(x),
                f"`{name}` must be square (p, p); got shape (3, 2). Use empirical_fisher(G)",
            ),
            (
                lambda other=other: other(skew),
                f"`{name}` must be symmetric; got |{name} - {name}ᵀ| up to 0.5. Use ",
            ),
            (
                lambda other=other: other(C.at[0, 0].set(NAN)),
                f"`{name}` must be finite; got NaN or infinity in 1 of 2 rows",
            ),
        ]
    ],
    (lambda: form(C, y), "`delta` must be of shape (…, 2), as A is (2, 2); got shape (3,). One step a row."),
    (lambda: form(C, jnp.ones((2, 1))), "`delta` must be of shape (…, 2), as A is (2, 2); got shape (2, 1)."),
    (lambda: form(C, jnp.ones(())), "`delta` must be of shape (…, 2), as A is (2, 2); got shape ()."),
    (lambda: form(C, "step"), "`delta` must be an array of real numbers; got str."),
    (
        lambda: ratios(C, jnp.eye(3)),
        "`B` must be of the shape of A, (2, 2); got shape (3, 3). Use the same parameters.",
    ),
    (
        lambda: ratios(C, jnp.diag(jnp.array([1.0, 0.0]))),
        DEFINITE + "0 to 1. Some direction costs nothing in it: take",
    ),
    (lambda: ratios(C, jnp.diag(jnp.array([1.0, -2.0]))), DEFINITE + "-2 to 1."),
    (lambda: ratios(C, jnp.zeros((2, 2))), DEFINITE + "0 to 0."),
    (lambda: ratios(C, jnp.diag(jnp.array([1.0, 1e-8]))), DEFINITE + "1e-08 to 1."),
    (
        lambda: changes(jnp.ones(2)),
        "`delta` must be of shape (1,), one number a parameter; got shape (2,). Use Step.delta.",
    ),
    (lambda: changes(jnp.ones(())), "`delta` must be of shape (1,), one number a parameter; got shape ()."),
    (
        lambda: changes(1000 * at),
        "`delta` must be finite; got NaN or infinity in 2 of 3 rows: 0, 2. It leads where these",
    ),
    (lambda: changes(jnp.ones(1, complex)), "`delta` must be real; got dtype complex64."),
    (
        lambda: bare(precondition)(C, g, form="adam"),
        "`form` must be one of 'full', 'diagonal', 'root', 'diagonal root', ",
    ),
    (lambda: bare(precondition)(C, g, jnp.ones(2)), "`damping` must be one number; got shape (2,)."),
    (lambda: bare(precondition)(x, g), "`A` must be square (p, p); got shape (3, 2)"),
    (lambda: bare(precondition)(C, y), "`g` must be of shape (2,), as A is (2, 2); got shape (3,)"),
    (
        lambda: bare(precondition)(C, g.at[1].set(INF)),
        "`g` must be finite; got NaN or infinity in 1 of 2 rows: 1.",
    ),
    (
        lambda: targeted(G, jnp.ones(2)),
        "`target` must be of shape (3,), one number an example; got shape (2,). Ask every",
    ),
    (lambda: targeted(G, y.at[1].set(NAN)), "`target` " + ROW + "Ask these examples for a finite decrease."),
    (lambda: gram(x), "`K` must be square (p, p); got shape (3, 2)"),
    (lambda: gram(jnp.eye(3), target=jnp.ones(2)), "`target` must be of shape (3,)"),
    (lambda: gram(jnp.eye(3), -1.0), "`damping` must be finite and at least 0; got -1.0."),
    (
        lambda: bare(ef.two_budget_step)(1e-25 * G, 0.1, 1e30),
        "`G` must be such that the step is not lost; got a gradient ",
    ),
    (
        lambda: bare(ef.empirical_fisher)(HUGE),
        "`G` " + FINITE + "Its scale leaves no room in this precision: rescale",
    ),
    (lambda: bare(ef.gram)(HUGE), "`G` " + FINITE),
    (lambda: bare(ef.gradient_covariance)(HUGE), "`G` " + FINITE),
    (lambda: form(1e30 * (2 * jnp.eye(2) - 1), 1e10 * theta), "`delta` " + FINITE),
    (lambda: ratios(1e38 * C, 1e-5 * jnp.eye(2)), "`A` " + FINITE),
    (
        lambda: bare(precondition)(1e-30 * jnp.eye(2), 1e10 * g),
        "`A` " + FINITE + "Its scale leaves no room in this precision, o",
    ),
    (lambda: newton(lambda theta, x: 1e25 * theta, gaussian.loss, theta, x, x), "`output_fn` " + FINITE),
]


@pytest.mark.parametrize(("call", "message"), TABLE, ids=[f"{i}" for i in range(len(TABLE))])
def test_table(call, message):
    with raises(message):
        call()
