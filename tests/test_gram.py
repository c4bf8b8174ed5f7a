"""K = GGᵀ/n and w ↦ Gᵀw of any loss, against one example at a time: exact, without G, and in little memory."""

import re
import sys
from functools import partial
from itertools import pairwise
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr, tree_leaves_with_path

import efisher_teach as ef

N = 5  # odd: two examples at a time leave a last block that is not full
DAMPING = 0.01
# Compiling costs more here than running. The tests of memory compile in earnest.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
CASES, WAYS = {}, {}
LABELS, WORDS = np.arange(N), np.random.default_rng(0).integers(0, 9, (N, 4))


def normal(*shape, seed=0):
    """NumPy keeps float64 until a test says otherwise."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def weights(*shape, seed=0):
    return normal(*shape, seed=seed) / 2


def case(ways, x, y, params=None, **shapes):
    """A loss to try: the way of each array of the parameters, and the data, by the shapes of one example."""
    x, y = (normal(N, *data) if isinstance(data, tuple) else data for data in (x, y))
    if params is None:
        params = {name: weights(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    if isinstance(params, tuple):
        params = weights(*params)

    def add(loss_fn):
        name = loss_fn.__name__.replace("_", " ")
        CASES[name], WAYS[name] = (loss_fn, params, x, y), ways.split()
        return loss_fn

    return add


def squared(output, y):
    return jnp.sum((output - y) ** 2) / 2


def half_norm(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2


# Dense layers


def layers(*sizes):
    pairs = enumerate(pairwise(sizes))
    return [{"W": weights(a, b, seed=i), "b": weights(b, seed=i)} for i, (a, b) in pairs]


def mlp(params, x, activation):
    for layer in params[:-1]:
        x = activation(x @ layer["W"] + layer["b"])
    return x @ params[-1]["W"] + params[-1]["b"]


@case("factors rows factors rows", (6,), (4,), layers(6, 5, 4))
def tanh(params, x, y):
    return squared(mlp(params, x, jnp.tanh), y)


@case("factors rows factors rows", (6,), LABELS % 4, layers(6, 5, 4))
@jax.jit
def relu_jitted_with_labels(params, x, y):
    return -jax.nn.log_softmax(mlp(params, x, jax.jit(jax.nn.relu)))[y]


@case("factors factors rows rows", (6,), (4,), V=(5, 6), W=(4, 5), a=(5,), b=(4,))
def weights_on_the_left(params, x, y):
    return squared(params["W"] @ jnp.tanh(params["V"] @ x + params["a"]) + params["b"], y)


@case("factors factors factors", (6,), (4,), U=(5, 6), V=(5, 2, 3), W=(3, 4, 2))
def einsum(params, x, y):
    hidden = jnp.tanh(jnp.einsum("i,ji->j", x, params["U"]))
    hidden = jnp.tanh(jnp.einsum("j,jkl->kl", hidden, params["V"]))
    return squared(jnp.einsum("kl,lmk->m", hidden, params["W"]), y)


@case("factors factors", (4,), (4,), V=(4, 4), W=(4, 4))
def square_used_once_on_either_side(params, x, y):
    """Square, so that factors in the wrong order would fit all the same."""
    return squared(params["W"] @ jnp.tanh(x @ params["V"]), y)


@case("factors factors", (8,), (8,), rectangle=(8, 9), square=(8, 8))
def tied(params, x, y):
    hidden = jnp.tanh(x @ params["rectangle"]) @ params["rectangle"].T
    return squared(jnp.tanh(hidden @ params["square"]) @ params["square"].T, y)


@case("factors factors rows", (6,), (4,), V=(5, 6), W=(5, 4), b=(5,))
def weight_decay_in_the_loss(params, x, y):
    hidden = jnp.tanh(params["V"] @ x + params["b"])
    return squared(hidden @ params["W"], y) + 0.3 * half_norm(params)


@case("factors factors factors", (8,), (4,), cube=(2, 3, 8), square=(8, 8), turned=(2, 3, 4))
def weight_decay_where_weights_are_shared_or_moved(params, x, y):
    hidden = jnp.tanh(x @ params["square"]) @ params["square"].T
    hidden = jnp.tanh(params["cube"].reshape(6, 8) @ hidden)
    hidden = params["turned"].transpose(2, 0, 1).reshape(4, 6) @ hidden
    return squared(hidden, y) + 0.3 * half_norm(params) + jnp.sum(jnp.sin(params["square"]))


@case("factors", (8,), (8,), (2, 4, 8))
def reshaped_alike_at_each_use(W, x, y):
    for _ in range(2):
        x = jnp.tanh(W.reshape(8, 8) @ x)
    return squared(x, y)


@case("rows", (6,), (6,), (2, 3, 4))
def reshaped_otherwise_at_each_use(W, x, y):
    return squared(jnp.tanh(x @ W.reshape(6, 4)) @ W.transpose(1, 0, 2).reshape(4, 6), y)


@case("rows", (4,), (4, 4), (4, 4, 4))
def cube_turned_otherwise_at_each_use(W, x, y):
    """The products have the same shape, and only their moves tell them apart."""
    return squared(jnp.einsum("j,ijk->ik", x, W) + jnp.einsum("k,ijk->ij", jnp.tanh(x), W), y)


@case("factors factors factors rows rows", (18,), (3,), U=(18, 18), V=(18, 18), W=(18, 3), a=(18,), b=(18,))
def checkpoint(params, x, y):
    def block(params, x):
        return jnp.tanh(params["V"] @ jnp.tanh(x @ params["U"] + params["a"]) + params["b"])

    saved = jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)
    hidden = jax.checkpoint(block)(params, jax.checkpoint(jax.jit(block))(params, x))
    return squared(saved(params, hidden) @ params["W"], y)


@case("factors factors", (2, 3, 8), (2, 3, 8), V=(3, 8, 9), W=(3, 8, 9))
def a_weight_for_each_head(params, x, y):
    hidden = jnp.tanh(jnp.einsum("thd,hdk->thk", x, params["V"]))
    decay = jnp.sum(params["W"] ** 3) / 3
    return squared(jnp.einsum("thk,hmk->thm", hidden, params["W"]), y) + 0.2 * decay


@case("factors rows", (6,), (4,), W=(3, 6, 4), b=(3, 4))
def ensemble_by_vmap(params, x, y):
    return jnp.sum(jax.vmap(lambda layer: squared(x @ layer["W"] + layer["b"], y))(params))


@case("factors rows", (2, 8), (2, 9), W=(9, 8), b=(9,))
def tokens_by_vmap(params, x, y):
    return jnp.mean(jax.vmap(lambda x, y: squared(jnp.tanh(params["W"] @ x + params["b"]), y))(x, y))


# Sequences

ATTENTION = {name: weights(8, 2, 4, seed=i) for i, name in enumerate("KQV")} | {"O": weights(2, 4, 8)}
ATTENTION |= {"scale": 1 + weights(8), "shift": weights(8)}


@case("factors factors factors factors rows rows", (2, 8), (2, 8), ATTENTION)
def attention(params, x, y):
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    normalised = centred / deviation * params["scale"] + params["shift"]
    q, k, v = (jnp.einsum("td,dhk->thk", normalised, params[name]) for name in "KQV")
    scores = jax.nn.softmax(jnp.einsum("thk,shk->hts", q, k) / 2)
    mixed = jnp.einsum("hts,shk->thk", scores, v)
    return squared(x + jnp.einsum("thk,hkd->td", mixed, params["O"]), y)


@case("columns columns rows", (7, 3), (7, 4), V=(3, 5), W=(4, 5), b=(5,))
def long_sequence(params, x, y):
    hidden = jnp.tanh(x @ params["V"] + params["b"])
    return squared(hidden @ params["W"].T, y) + 0.1 * half_norm(params["W"])


@case("columns", (7, 2, 3), (7, 2, 5), (2, 3, 5))
def long_sequence_for_each_head(W, x, y):
    return squared(jnp.einsum("thd,hdk->thk", x, W), y) + 0.1 * jnp.sum(jnp.sin(W))


@case("rows rows rows", (6, 3), (6, 4), U=(4, 3), W=(4, 4), b=(4,))
def rnn_by_scan(params, x, y):
    def step(hidden, x):
        hidden = jnp.tanh(params["W"] @ hidden + params["U"] @ x + params["b"])
        return hidden, hidden

    return squared(lax.scan(step, jnp.zeros(4), x)[1], y)


@case("factors factors rows", (3, 18), (18,), U=(18, 18), W=(18, 18), b=(18,))
def rnn_by_a_loop(params, x, y):
    hidden = jnp.full(18, 0.1)
    for each in x:
        hidden = jnp.tanh(params["W"] @ hidden + each @ params["U"] + params["b"])
    return squared(hidden, y)


@case("rows rows", (4,), (4,), W=(3, 4, 4), b=(3, 4))
def layers_by_scan(params, x, y):
    return squared(lax.scan(lambda x, layer: (jnp.tanh(x @ layer["W"] + layer["b"]), None), x, params)[0], y)


@case("rows factors", (6,), (4,), V=(6, 6), W=(6, 4))
def dense_layer_inside_and_outside_a_scan(params, x, y):
    x = lax.fori_loop(0, 3, lambda _, x: jnp.tanh(params["V"] @ x), x @ params["V"])
    return squared(x @ params["W"], y)


@case("rows factors", WORDS, LABELS, embedding=(9, 4), output=(4, 9))
def embedding(params, x, y):
    return -jax.nn.log_softmax(params["embedding"][x].mean(axis=0) @ params["output"])[y]


@case("rows", WORDS, LABELS, (9, 4))
def embedding_tied_with_the_output(E, x, y):
    return -jax.nn.log_softmax(jnp.tanh(E[x].sum(axis=0)) @ E.T)[y]


# Convolutions


def convolution(x, W, layout="NHWC", kernel="HWIO", strides=(1, 1), **options):
    numbers = (layout, kernel, layout)
    return lax.conv_general_dilated(x[None], W, strides, "SAME", dimension_numbers=numbers, **options)[0]


@case("columns columns rows", (5, 4, 2), (4,), V=(3, 2, 2, 3), W=(2, 2, 3, 4), b=(3,))
def convolution_with_channels_last(params, x, y):
    hidden = jnp.tanh(convolution(x, params["V"], strides=(2, 1)) + params["b"])
    return squared(convolution(hidden, params["W"], rhs_dilation=(1, 2)).mean(axis=(0, 1)), y)


@case("columns columns", (2, 4, 5), (4,), V=(3, 2, 3, 2), W=(4, 3, 2, 2))
def convolution_with_channels_first(params, x, y):
    convolve = partial(convolution, layout="NCHW", kernel="OIHW")
    hidden = jnp.tanh(convolve(x, params["V"], strides=(1, 2)))
    return squared(convolve(hidden, params["W"]).sum(axis=(1, 2)), y)


@case("rows rows", (4, 4, 4), (6,), depthwise=(3, 3, 1, 4), grouped=(2, 2, 2, 6))
def convolution_in_groups(params, x, y):
    hidden = jnp.tanh(convolution(x, params["depthwise"], feature_group_count=4))
    return squared(convolution(hidden, params["grouped"], feature_group_count=2).sum(axis=(0, 1)), y)


@case("columns columns rows", (4, 4, 2), (4,), V=(2, 2, 2, 3), W=(2, 2, 3, 4), b=(4,))
def convolution_with_weight_decay(params, x, y):
    hidden = jnp.tanh(convolution(x, params["V"]))
    hidden = convolution(hidden, params["W"].transpose(3, 2, 0, 1), "NHWC", "OIHW").mean(axis=(0, 1))
    return squared(hidden + params["b"], y) + 0.2 * half_norm(params)


@case("rows", (3, 3, 2), (3, 3, 2), (2, 2, 2, 2))
def convolution_used_twice(W, x, y):
    return squared(convolution(jnp.tanh(convolution(x, W)), W), y)


# Other losses


@case("rows rows rows", (), (), level=(), slope=(), unused=(2, 2))
def scalars_and_unused(params, x, y):
    return jnp.exp(-params["slope"] * x) * (params["level"] - y) ** 2


@case("rows", (), (), (3,))
def constant(params, x, y):
    return x * y


@case("columns", (4,), LABELS % 2 * 2.0 - 1, (4,))
def bare_array(params, x, y):
    return jax.nn.softplus(-y * (x @ params))


@case("rows rows", (4,), LABELS % 3, V=(4, 4), W=(4, 4))
def branches_and_loops(params, x, y):
    x = lax.while_loop(lambda x: jnp.sum(x**2) < 30, lambda x: 1.5 * x, x)  # depends on the data alone
    x = lax.cond(x[0] > 0, lambda x: jnp.tanh(params["V"] @ x), lambda x: params["V"] @ x, x)
    x = lax.switch(y, [jnp.sin, jnp.cos, lambda x: x @ params["W"]], x)
    return jnp.sum(x) + lax.fori_loop(0, 2, lambda _, z: jnp.sin(z), jnp.sum(params["W"]) * x[0])


@jax.custom_vjp
def dense(x, W):
    return x @ W


dense.defvjp(
    lambda x, W: (x @ W, (x, W)),
    # The error of x is not what JAX would make of it, that of W is an outer product.
    lambda saved, error: (jnp.clip(error @ saved[1].T, -0.5, 0.5), saved[0][:, None] @ error[None, :]),
)


@jax.custom_jvp
def step(x):
    return jnp.where(x > 0, 1.0, 0.0)


step.defjvp(lambda primals, tangents: (step(*primals), tangents[0] / (1 + primals[0] ** 2)))


@case("factors factors factors", (6,), (4,), U=(6, 5), V=(5, 5), W=(5, 4))
def custom_derivatives(params, x, y):
    x = jax.nn.relu(step(x - 1) + dense(x, jnp.eye(6)) + x)  # of the data alone: left as it is in the trace
    return squared(dense(step(dense(x, params["U"]) @ params["V"]), params["W"]), y)


TREE = {"V": weights(6, 4), "W": weights(4, 6), "scale": (np.array(0.2), None)}
INPUTS, TARGETS = (
    {"wide": normal(N, 4), "narrow": [normal(N, 3), None]},
    [1 + normal(N) ** 2, {"target": normal(N, 4)}],
)


@case("factors factors rows", INPUTS, TARGETS, TREE)
def examples_are_trees_and_the_loss_holds_arrays(params, x, y):
    features, mask = normal(6, 3), normal(4) > 0
    hidden = jnp.tanh(params["V"] @ x["wide"] + features @ x["narrow"][0])
    return y[0] * jnp.sum(jnp.where(mask, params["W"] @ hidden - y[1]["target"], params["scale"][0]) ** 2)


SEEDS = {"seed": LABELS, "input": normal(N, 6)}


@case("factors factors", SEEDS, LABELS, V=(6, 5), W=(5, 6))
def noise_by_keys(params, x, y):
    kept = jax.random.bernoulli(jax.random.key(x["seed"]), 0.7, (5,))
    return squared(jnp.where(kept, jnp.tanh(x["input"] @ params["V"]), 0) @ params["W"], x["input"])


@case("factors rows", normal(1, 2, 8), normal(1, 2, 8), W=(8, 8), b=(8,))
def one_example(params, x, y):
    return squared(x @ params["W"] + params["b"], y)


SCALED = {"bottom": (2, 6), "direction": (6, 6), "length": (), "masked": (6, 6), "top": (3, 6)}


@case("rows rows rows rows rows", (6,), (4,), **SCALED)
def weights_that_are_scaled_masked_or_cut(params, x, y):
    x = (params["direction"] / jnp.linalg.norm(params["direction"]) * params["length"]) @ x
    x = jnp.tanh(jnp.where(normal(6, 6) > 0, params["masked"], 0) @ x)
    return squared(jnp.concatenate([params["top"][:2], params["bottom"]]) @ x, y)


# Exact


def prepared(name):
    """A case as JAX arrays, in the precision of the test."""
    loss_fn, *data = CASES[name]
    return loss_fn, *jax.tree.map(jnp.asarray, data)


def singly(loss_fn, params, x, y):
    """The losses and G, one example at a time: `oracles.gradients` for examples that are pytrees."""
    both = jax.jit(jax.value_and_grad(loss_fn), compiler_options=QUICK)
    n = len(jax.tree.leaves((x, y))[0])
    found = [both(params, *jax.tree.map(lambda leaf, i=i: leaf[i], (x, y))) for i in range(n)]
    return np.array([loss for loss, _ in found]), np.array([ravel_pytree(g)[0] for _, g in found], float)


def all_at_once(leaves, loss_fn, params, x, y, weights, **options):
    """Losses, K and Gᵀw, compiled as one; `leaves` receives the treatment of every array."""

    def run(params, x, y, weights):
        found = ef.loss_gram(loss_fn, params, x, y, **options)
        leaves.extend(found.leaves)
        return found.losses, found.K, found.weighted_gradient(weights)

    return jax.jit(run, compiler_options=QUICK)(params, x, y, weights)


def dual(G, damping):
    """The coefficients α of the examples: Gᵀα is the direction."""
    return np.linalg.solve(oracles.gram(G) + damping * np.eye(len(G)), np.full(len(G), 1 / len(G)))


# Small chunks change little where most of it is factors: there they are not tried.
DENSE = [name for name in CASES if WAYS[name].count("factors") < len(WAYS[name]) / 2]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_exact(name):
    """The losses, K and Gᵀw by single gradients; then (C + εI)⁻¹g, by p equations and by n."""
    loss_fn, params, x, y = prepared(name)
    expected, G = singly(loss_fn, params, x, y)
    w = dual(G, DAMPING)
    for chunk_size in (None, 1) if name in DENSE else (None,):
        leaves = []
        losses, K, combined = all_at_once(leaves, loss_fn, params, x, y, w, chunk_size=chunk_size)
        u = ravel_pytree(combined)[0]
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
        np.testing.assert_allclose(
            K, K.T, rtol=1e-12, atol=1e-12 * np.abs(K).max()
        )  # exactly outside jit only
        assert np.linalg.norm(K - oracles.gram(G)) <= 1e-12 * np.linalg.norm(K)
        assert np.linalg.norm(u - w @ G) <= 1e-12 * np.linalg.norm(w) * np.linalg.norm(G)
        # 1e-16 times the condition of C + εI, at most 1e6 here: ε is 0.01.
        assert np.linalg.norm(u - oracles.direction(G, DAMPING)) <= 1e-10 * np.linalg.norm(u)
        assert np.linalg.norm(ef.solve_gram(K, DAMPING) - w) <= 1e-10 * np.linalg.norm(w)
        assert jax.tree.structure(combined) == jax.tree.structure(params)
        assert jax.tree.map(jnp.shape, combined) == jax.tree.map(jnp.shape, params)

        assert [leaf.name for leaf in leaves] == [keystr(path) for path, _ in tree_leaves_with_path(params)]
        assert all(len(leaf.why) > 7 for leaf in leaves)
        if chunk_size is None:
            assert [leaf.way for leaf in leaves] == WAYS[name]


def agrees_with_single_gradients(found, loss_fn, params, x, y, w):
    losses, G = singly(loss_fn, params, x, y)
    np.testing.assert_allclose(found[0], losses, rtol=1e-12)
    np.testing.assert_allclose(found[1], oracles.gram(G), rtol=1e-11)
    np.testing.assert_allclose(ravel_pytree(found[2])[0], w @ G, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_many_examples_of_a_wide_network(monkeypatch):
    """K and the biases are more than may be held, but have what they need anyway: n² numbers, and the errors."""
    monkeypatch.setattr(sys.modules["efisher_teach.network.gram"], "NUMBERS", 4)
    params, x, y, w, leaves = layers(4, 5, 3), normal(6, 4), normal(6, 3), normal(6), []
    found = all_at_once(leaves, tanh, params, x, y, w, chunk_size=None)
    assert [leaf.way for leaf in leaves] == ["factors", "rows"] * 2
    agrees_with_single_gradients(found, tanh, params, x, y, w)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 6, 99])
def test_chunks_do_not_show(chunk_size):
    """Blocks of 1, 2 and 3 of the 7 examples, where the last is not full; columns in parts of 1, 2, 3 and 5."""

    def loss(params, x, y):
        hidden = jnp.tanh(params["embedding"][x] + params["shift"])
        return squared(hidden @ params["columns"], y) + 0.1 * half_norm(params)

    params = {"columns": weights(3, 5), "embedding": weights(12, 3), "shift": weights(3)}
    x, y, w, leaves = np.random.default_rng(0).integers(0, 12, (7, 6)), normal(7, 6, 5), normal(7), []
    found = all_at_once(leaves, loss, params, x, y, w, chunk_size=chunk_size)
    assert [leaf.way for leaf in leaves] == ["columns", *(["blocks" if chunk_size < 6 else "rows"] * 2)]
    agrees_with_single_gradients(found, loss, params, x, y, w)


@pytest.mark.usefixtures("x64")
def test_permuted_examples_permute_k():
    loss_fn, params, x, y = prepared("attention")
    order = np.array([3, 0, 4, 1, 2])
    K, permuted = (
        all_at_once([], loss_fn, params, x[i], y[i], jnp.ones(N))[1] for i in (np.arange(N), order)
    )
    np.testing.assert_allclose(permuted, K[order][:, order], rtol=1e-13)


# Memory


def sizes(compiled):
    """The sizes of the arrays that the optimised program makes."""
    shapes = re.findall(r"\bf32\[([\d,]+)\]", compiled.as_text())
    return [prod(map(int, shape.split(","))) for shape in shapes]


def two_layers(params, x, y):
    return squared(jnp.tanh(x @ params[0]) @ params[1], y)


def bias_between(params, x, y):
    """Its gradient is a product too, of the errors and of weights that are the same for all."""
    return squared((x @ params[0] + params[2]) @ params[1], y)


FORMLESS = {
    "dense": (two_layers, (40, 48), (48, 44), (40,), (44,), 24),
    "sequence": (two_layers, (48, 48), (48, 44), (3, 48), (3, 44), 12),
    "linear with a bias": (bias_between, (40, 48), (48, 44), (40,), (44,), 24),
}


@pytest.mark.parametrize("name", FORMLESS)
def test_no_gradients_are_formed(name):
    loss_fn, first, second, of_x, of_y, n = FORMLESS[name]
    params = (*(jnp.asarray(weights(*shape), jnp.float32) for shape in (first, second)), jnp.ones(first[1]))
    x, y, w = (jnp.ones((n, *shape)) for shape in (of_x, of_y, ()))
    leaves = []

    def gram(params, x, y, w):
        found = ef.loss_gram(loss_fn, params, x, y)
        leaves.extend(found.leaves)
        return found.K, found.weighted_gradient(w)

    def rows(params, x, y, w):
        G = jax.vmap(lambda *of: ravel_pytree(jax.grad(loss_fn)(*of))[0], (None, 0, 0))(params, x, y)
        return G @ G.T, w @ G

    compiled = jax.jit(gram).lower(params, x, y, w).compile()
    assert [leaf.way for leaf in leaves][:2] == ["factors", "factors"]
    # The weights themselves, the activations, or the inner products of all tokens, whichever are most.
    tokens = n * prod(of_x[:-1])
    assert max(sizes(compiled)) <= max(prod(first), prod(second), tokens * max(*first, *second), tokens**2)
    dense = jax.jit(rows).lower(params, x, y, w).compile()
    assert max(sizes(dense)) >= n * min(prod(first), prod(second))


LARGE = {
    "embedding": (
        lambda E, x, y: squared(jnp.tanh(E[x]).sum(axis=0), y),
        *(jnp.ones((500, 16)), jnp.zeros((40, 3), int), jnp.ones((40, 16))),
    ),
    "scan": (
        lambda W, x, y: squared(lax.scan(lambda h, x: (jnp.tanh(h @ W + x), None), y, x)[0], y),
        *(jnp.ones((80, 80)), jnp.ones((40, 3, 80)), jnp.ones((40, 80))),
    ),
    "convolution": (
        lambda W, x, y: squared(jnp.tanh(convolution(x, W)).sum(axis=(0, 1)), y),
        *(jnp.ones((3, 3, 16, 64)), jnp.ones((40, 3, 3, 16)), jnp.ones((40, 64))),
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_bounded_by_chunks(name):
    loss_fn, params, x, y = LARGE[name]
    G = 40 * params.size * 4  # bytes

    def temporary(chunk_size):
        run = jax.jit(lambda *data: ef.loss_gram(loss_fn, *data, chunk_size=chunk_size).K)
        return run.lower(params, x, y).compile().memory_analysis().temp_size_in_bytes

    assert temporary(1) < G / 4
    assert temporary(None) > G * 0.9


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_the_loss_is_traced_once(chunk_size):
    loss_fn, params, x, y = prepared("embedding")
    calls = []

    def counted(params, x, y):
        calls.append(None)
        return loss_fn(params, x, y)

    combine = jax.jit(lambda found, weights: found.weighted_gradient(weights))
    counts = []
    for _ in range(3):
        found = ef.loss_gram(counted, params, x, y, chunk_size=chunk_size)
        combine(found, found.losses)
        counts.append(len(calls))
    assert 0 < counts[0] == counts[1] == counts[2]


# Under jit and vmap


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_made_under_jit_and_combined_outside(chunk_size):
    """ "rows" and "blocks" of the embedding, "factors" of the output."""
    loss_fn, params, x, y = prepared("embedding")
    _, G = singly(loss_fn, params, x, y)
    eager = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
    jitted = jax.jit(lambda *data: ef.loss_gram(loss_fn, *data, chunk_size=chunk_size))(params, x, y)
    assert [leaf.way for leaf in eager.leaves] == ["rows" if chunk_size is None else "blocks", "factors"]
    assert eager.leaves == jitted.leaves
    for found in (eager, jitted):
        u = ravel_pytree(found.weighted_gradient(ef.solve_gram(found.K, DAMPING)))[0]
        assert oracles.relative(found.K, oracles.gram(G)) < 1e-12
        assert oracles.relative(u, oracles.direction(G, DAMPING)) < 1e-10


@pytest.mark.usefixtures("x64")
def test_mapped_over_parameters_and_dampings():
    loss_fn, params, x, y = prepared("embedding")
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf]), params)
    dampings = jnp.array([DAMPING, 1.0, 0.0])

    def directions(params):
        found = ef.loss_gram(loss_fn, params, x, y)
        return jax.vmap(lambda damping: found.weighted_gradient(ef.solve_gram(found.K, damping)))(dampings)

    found = jax.jit(jax.vmap(directions))(many)
    for i in range(2):
        _, G = singly(loss_fn, jax.tree.map(lambda leaf, i=i: leaf[i], many), x, y)
        for j, damping in enumerate(dampings):
            u = ravel_pytree(jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], found))[0]
            assert oracles.relative(u, oracles.direction(G, float(damping))) < 1e-9


# Precision


def in_float32(index, damping):
    """G of some of the examples in float64, and their direction (C + εI)⁻¹g by `loss_gram` in float32."""
    loss_fn, params, x, y = CASES["tanh"]
    with jax.enable_x64(True):
        _, G = singly(loss_fn, *jax.tree.map(jnp.asarray, (params, x, y)))
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x[index], y[index]))
    found = ef.loss_gram(loss_fn, *single)
    u = ravel_pytree(found.weighted_gradient(ef.solve_gram(found.K, damping)))[0]
    assert found.K.dtype == found.losses.dtype == u.dtype == jnp.float32
    return G[index], u


@pytest.mark.parametrize("damping", [1e-1, 1e-3, 1e-5, 1e-7])
def test_float32(damping):
    G, u = in_float32(np.arange(N), damping)
    assert (
        oracles.relative(u, oracles.direction(G, damping)) < 1e-5
    )  # eps times the condition of K, at most 100


@pytest.mark.parametrize("damping", [0.0, 1e-9, 1e-7, 1e-3])
def test_repeated_examples_in_float32(damping):
    """K has rank 3. An ε below its rounding counts as 0, and moves u by ε/μ, which is less than rounding does."""
    G, u = in_float32(np.array([0, 0, 1, 2, 1]), damping)
    assert oracles.relative(u, oracles.direction(G, damping)) < 2e-5


@pytest.mark.parametrize(
    "kept", [jnp.bfloat16, jnp.float32], ids=["bfloat16 parameters", "bfloat16 inside only"]
)
def test_low_precision_is_summed_in_float32(kept):
    """The factors have eight bits; K, made from them, adds no error of its own, and can be solved with."""

    def loss(params, x, y):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
        return jnp.sum((jnp.tanh(low[1] @ low[0][0]) @ low[0][1]).astype(jnp.float32) ** 2) * y

    rng = np.random.default_rng(5)
    params = [jnp.asarray(rng.normal(size=shape) / 4, kept) for shape in ((16, 32), (32, 8))]
    x, y = jnp.asarray(rng.normal(size=(6, 16)), jnp.float32), jnp.ones(6)
    known = ef.loss_gram(loss, params, x, y)
    rows = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, x, y)
    # G is rounded to bfloat16, each entry.
    G = np.concatenate([np.float64(leaf).reshape(6, -1) for leaf in rows], axis=1)
    assert known.K.dtype == jnp.float32
    assert oracles.relative(known.K, G @ G.T / 6) < 3e-3
    coefficients = ef.solve_gram(known.K, 0.01)
    for found, leaf in zip(known.weighted_gradient(coefficients), rows, strict=True):
        assert found.dtype == kept
        expected = np.einsum("n,nab->ab", np.float64(coefficients), np.float64(leaf))
        assert oracles.relative(found, expected) < 2e-2


# The solve

A = oracles.GRID["tall"]
ROOTS = {"full rank": A.T, "rank 2": oracles.GRID["deficient"]}


@pytest.mark.parametrize("given", [False, True], ids=["mean", "target"])
@pytest.mark.parametrize("damping", [0.0, 1e-12, 1e-2, 1e3])
@pytest.mark.parametrize("name", ROOTS)
def test_solve_gram(name, damping, given, dtype):
    K = oracles.gram(ROOTS[name])
    n = len(K)
    # In the range of K: at ε = 0 there is no other.
    target = K @ normal(n) if given else np.full(n, 1 / n)
    coefficients = ef.solve_gram(
        jnp.asarray(K, dtype), damping, jnp.asarray(target, dtype) if given else None
    )
    visible = damping > n * oracles.unit(dtype) * np.linalg.eigvalsh(K)[-1]
    if visible:
        expected = np.linalg.solve(K + damping * np.eye(n), target)
    else:
        expected = np.linalg.pinv(K, rcond=1e-10, hermitian=True) @ target
    assert coefficients.dtype == dtype
    # The condition of K, or of K + εI with ε = 0.01, is below 1e3; for ε = 1e-12 in float64 only Gᵀα is defined.
    if visible and damping == 1e-12 and name == "rank 2":
        pytest.skip("what rounding leaves outside the range of K is divided by ε")
    assert oracles.relative(coefficients, expected) < 1e4 * oracles.unit(dtype)


def test_solve_gram_under_vmap_takes_the_right_branch_for_each():
    K = jnp.asarray(oracles.gram(oracles.GRID["deficient"]), jnp.float32)
    dampings = jnp.array([0.0, 1e-2, 1.0])
    mapped = jax.vmap(partial(ef.solve_gram, K))(dampings)
    for row, damping in zip(mapped, dampings, strict=True):
        np.testing.assert_allclose(row, ef.solve_gram(K, damping), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("y", [[1.0, -1.0, 4.0, 2.0], [1.0, 0.0, 4.0, 2.0]], ids=["loss", "gradient alone"])
@pytest.mark.parametrize("way", ["factors", "rows", "columns"])
def test_names_the_example_that_is_not_finite(way, y, chunk_size):
    """√y is undefined below 0, and steep without limit at 0."""

    def loss(params, x, y):
        root = jnp.sqrt(y * jnp.sum(params["W"] ** 2))
        hidden = {"factors": x[0] @ params["W"], "rows": params["W"][0], "columns": x @ params["W"]}[way]
        return root + squared(hidden, y) if way == "rows" else squared(hidden * root, y)

    message = "`loss_fn` must be finite; got NaN or infinity in 1 of 4 rows: 1. Its value or its gradient"
    data = {"W": jnp.ones((4, 3))}, jnp.ones((4, 6, 4)), jnp.asarray(y)
    with pytest.raises(ValueError, match=re.escape(message)):
        ef.loss_gram(loss, *data, chunk_size=chunk_size)
