"""K = GGᵀ/n and w ↦ Gᵀw of any loss, against one example at a time: what is exact, what it costs, what it refuses."""

import re
import sys
from functools import cache, partial
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
from oracles import bare

import efisher_teach as ef

N = 5  # odd: two examples at a time leave a last block that is not full
EPSILON = 0.01
# Compiling costs more here than running. The tests of what it costs to run compile in earnest.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
CASES, WAYS = {}, {}


def case(ways):
    """A loss to try: `build()` gives loss_fn, params, x and y; `ways`: those of the leaves, in their order."""

    def add(build):
        name = build.__name__.replace("_", " ")
        CASES[name], WAYS[name] = cache(build), ways.split()
        return build

    return add


def normal(*shape, seed=0):
    """NumPy keeps float64 until a test says otherwise."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def weights(*shape, seed=0):
    return normal(*shape, seed=seed) / 2


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


def mlp_loss(params, x, y, activation=jnp.tanh):
    return squared(mlp(params, x, activation), y)


@case("factors rows factors rows")
def tanh():
    return mlp_loss, layers(6, 5, 4), normal(N, 6), normal(N, 4)


@case("factors rows factors rows")
def gelu():
    return partial(mlp_loss, activation=jax.nn.gelu), layers(6, 5, 4), normal(N, 6), normal(N, 4)


@case("factors rows factors rows")
def relu_jitted_with_labels():
    @jax.jit
    def loss(params, x, y):
        return -jax.nn.log_softmax(mlp(params, x, jax.jit(jax.nn.relu)))[y]

    return loss, layers(6, 5, 4), normal(N, 6), np.arange(N) % 4


@case("factors factors rows rows")
def weights_on_the_left():
    def loss(params, x, y):
        return squared(params["W"] @ jnp.tanh(params["V"] @ x + params["a"]) + params["b"], y)

    params = {"V": weights(5, 6), "W": weights(4, 5), "a": weights(5), "b": weights(4)}
    return loss, dict(sorted(params.items())), normal(N, 6), normal(N, 4)


@case("factors factors factors")
def einsum():
    def loss(params, x, y):
        hidden = jnp.tanh(jnp.einsum("i,ji->j", x, params[0]))
        hidden = jnp.tanh(jnp.einsum("j,jkl->kl", hidden, params[1]))
        return squared(jnp.einsum("kl,lmk->m", hidden, params[2]), y)

    return loss, [weights(5, 6), weights(5, 2, 3), weights(3, 4, 2)], normal(N, 6), normal(N, 4)


@case("factors factors")
def square_used_once_on_either_side():
    """Square, so that factors in the wrong order would fit all the same."""

    def loss(params, x, y):
        return squared(params["W"] @ jnp.tanh(x @ params["V"]), y)

    return loss, {"V": weights(4, 4), "W": weights(4, 4, seed=1)}, normal(N, 4), normal(N, 4)


@case("factors factors")
def tied():
    def loss(params, x, y):
        hidden = jnp.tanh(x @ params["rectangle"])
        hidden = hidden @ params["rectangle"].T
        return squared(jnp.tanh(hidden @ params["square"]) @ params["square"].T, y)

    return loss, {"rectangle": weights(8, 9), "square": weights(8, 8)}, normal(N, 8), normal(N, 8)


@case("factors factors rows")
def weight_decay_in_the_loss():
    def loss(params, x, y):
        hidden = jnp.tanh(params["V"] @ x + params["b"])
        return squared(hidden @ params["W"], y) + 0.3 * half_norm(params)

    return loss, {"V": weights(5, 6), "W": weights(5, 4), "b": weights(5)}, normal(N, 6), normal(N, 4)


@case("factors factors factors")
def weight_decay_where_weights_are_shared_or_moved():
    def loss(params, x, y):
        hidden = jnp.tanh(x @ params["square"]) @ params["square"].T
        hidden = jnp.tanh(params["cube"].reshape(6, 8) @ hidden)
        hidden = params["turned"].transpose(2, 0, 1).reshape(4, 6) @ hidden
        return squared(hidden, y) + 0.3 * half_norm(params) + jnp.sum(jnp.sin(params["square"]))

    params = {"cube": weights(2, 3, 8), "square": weights(8, 8), "turned": weights(2, 3, 4)}
    return loss, params, normal(N, 8), normal(N, 4)


@case("factors")
def reshaped_anew_at_each_use():
    def loss(W, x, y):
        for _ in range(2):
            x = jnp.tanh(W.reshape(8, 8) @ x)
        return squared(x, y)

    return loss, weights(2, 4, 8), normal(N, 8), normal(N, 8)


@case("rows")
def reshaped_otherwise_at_each_use():
    def loss(W, x, y):
        return squared(jnp.tanh(x @ W.reshape(6, 4)) @ W.transpose(1, 0, 2).reshape(4, 6), y)

    return loss, weights(2, 3, 4), normal(N, 6), normal(N, 6)


@case("rows")
def cube_turned_otherwise_at_each_use():
    """The products have the same shape, and only what is done with them tells them apart."""

    def loss(W, x, y):
        return squared(jnp.einsum("j,ijk->ik", x, W) + jnp.einsum("k,ijk->ij", jnp.tanh(x), W), y)

    return loss, weights(4, 4, 4), normal(N, 4), normal(N, 4, 4)


@case("factors factors factors rows rows")
def checkpoint():
    def block(params, x):
        return jnp.tanh(params["V"] @ jnp.tanh(x @ params["U"] + params["a"]) + params["b"])

    def loss(params, x, y):
        saved = jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)
        hidden = jax.checkpoint(block)(params, jax.checkpoint(jax.jit(block))(params, x))
        return squared(saved(params, hidden) @ params["W"], y)

    params = {"U": weights(18, 18), "V": weights(18, 18, seed=1), "W": weights(18, 3)}
    return loss, params | {"a": weights(18), "b": weights(18)}, normal(N, 18), normal(N, 3)


@case("factors factors")
def a_weight_for_each_head():
    def loss(params, x, y):
        hidden = jnp.tanh(jnp.einsum("thd,hdk->thk", x, params["V"]))
        decay = jnp.sum(params["W"] ** 3) / 3
        return squared(jnp.einsum("thk,hmk->thm", hidden, params["W"]), y) + 0.2 * decay

    return loss, {"V": weights(3, 8, 9), "W": weights(3, 8, 9)}, normal(N, 2, 3, 8), normal(N, 2, 3, 8)


@case("factors rows")
def ensemble_by_vmap():
    def loss(params, x, y):
        return jnp.sum(jax.vmap(lambda W, b: squared(x @ W + b, y))(*params))

    return loss, (weights(3, 6, 4), weights(3, 4)), normal(N, 6), normal(N, 4)


@case("factors rows")
def tokens_by_vmap():
    def loss(params, x, y):
        return jnp.mean(jax.vmap(lambda x, y: squared(jnp.tanh(params[0] @ x + params[1]), y))(x, y))

    return loss, (weights(9, 8), weights(9)), normal(N, 2, 8), normal(N, 2, 9)


# Sequences


def normalised(x, params):
    centred = x - x.mean(axis=-1, keepdims=True)
    return (
        centred * lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * params["scale"]
        + params["shift"]
    )


@case("factors factors factors factors rows rows")
def attention():
    def loss(params, x, y):
        q, k, v = (jnp.einsum("td,dhk->thk", normalised(x, params), params[name]) for name in "KQV")
        scores = jax.nn.softmax(jnp.einsum("thk,shk->hts", q, k) / 2)
        mixed = jnp.einsum("hts,shk->thk", scores, v)
        return squared(x + jnp.einsum("thk,hkd->td", mixed, params["O"]), y)

    params = {name: weights(8, 2, 4, seed=i) for i, name in enumerate("KQV")} | {"O": weights(2, 4, 8)}
    return loss, params | {"scale": 1 + weights(8), "shift": weights(8)}, normal(N, 2, 8), normal(N, 2, 8)


@case("columns columns rows")
def long_sequence():
    def loss(params, x, y):
        hidden = jnp.tanh(x @ params["V"] + params["b"])
        return squared(hidden @ params["W"].T, y) + 0.1 * half_norm(params["W"])

    return loss, {"V": weights(3, 5), "W": weights(4, 5), "b": weights(5)}, normal(N, 7, 3), normal(N, 7, 4)


@case("columns")
def long_sequence_for_each_head():
    def loss(W, x, y):
        return squared(jnp.einsum("thd,hdk->thk", x, W), y) + 0.1 * jnp.sum(jnp.sin(W))

    return loss, weights(2, 3, 5), normal(N, 7, 2, 3), normal(N, 7, 2, 5)


@case("rows rows rows")
def rnn_by_scan():
    def loss(params, x, y):
        def step(hidden, x):
            hidden = jnp.tanh(params["W"] @ hidden + params["U"] @ x + params["b"])
            return hidden, hidden

        return squared(lax.scan(step, jnp.zeros(4), x)[1], y)

    return loss, {"U": weights(4, 3), "W": weights(4, 4), "b": weights(4)}, normal(N, 6, 3), normal(N, 6, 4)


@case("factors factors rows")
def rnn_by_a_loop():
    def loss(params, x, y):
        hidden = jnp.full(18, 0.1)
        for each in x:
            hidden = jnp.tanh(params["W"] @ hidden + each @ params["U"] + params["b"])
        return squared(hidden, y)

    params = {"U": weights(18, 18), "W": weights(18, 18, seed=1), "b": weights(18)}
    return loss, params, normal(N, 3, 18), normal(N, 18)


@case("rows rows")
def layers_by_scan():
    def loss(params, x, y):
        return squared(lax.scan(lambda x, layer: (jnp.tanh(x @ layer[0] + layer[1]), None), x, params)[0], y)

    return loss, (weights(3, 4, 4), weights(3, 4)), normal(N, 4), normal(N, 4)


@case("rows factors")
def dense_layer_inside_and_outside_a_scan():
    def loss(params, x, y):
        x = lax.fori_loop(0, 3, lambda _, x: jnp.tanh(params["V"] @ x), x @ params["V"])
        return squared(x @ params["W"], y)

    return loss, {"V": weights(6, 6), "W": weights(6, 4)}, normal(N, 6), normal(N, 4)


@case("rows factors")
def embedding():
    def loss(params, x, y):
        return -jax.nn.log_softmax(params["embedding"][x].mean(axis=0) @ params["output"])[y]

    x = np.random.default_rng(0).integers(0, 9, (N, 4))
    return loss, {"embedding": weights(9, 4), "output": weights(4, 9)}, x, np.arange(N)


@case("rows")
def embedding_tied_with_the_output():
    def loss(E, x, y):
        return -jax.nn.log_softmax(jnp.tanh(E[x].sum(axis=0)) @ E.T)[y]

    return loss, weights(9, 4), np.random.default_rng(0).integers(0, 9, (N, 4)), np.arange(N)


# Convolutions


def convolution(x, W, layout="NHWC", kernel="HWIO", strides=(1, 1), **options):
    numbers = (layout, kernel, layout)
    return lax.conv_general_dilated(x[None], W, strides, "SAME", dimension_numbers=numbers, **options)[0]


@case("columns columns rows")
def convolution_with_channels_last():
    def loss(params, x, y):
        hidden = jnp.tanh(convolution(x, params["V"], strides=(2, 1)) + params["b"])
        return squared(convolution(hidden, params["W"], rhs_dilation=(1, 2)).mean(axis=(0, 1)), y)

    params = {"V": weights(3, 2, 2, 3), "W": weights(2, 2, 3, 4), "b": weights(3)}
    return loss, params, normal(N, 5, 4, 2), normal(N, 4)


@case("columns columns")
def convolution_with_channels_first():
    def loss(params, x, y):
        convolve = partial(convolution, layout="NCHW", kernel="OIHW")
        hidden = jnp.tanh(convolve(x, params["V"], strides=(1, 2)))
        return squared(convolve(hidden, params["W"]).sum(axis=(1, 2)), y)

    return loss, {"V": weights(3, 2, 3, 2), "W": weights(4, 3, 2, 2)}, normal(N, 2, 4, 5), normal(N, 4)


@case("rows rows")
def convolution_in_groups():
    def loss(params, x, y):
        hidden = jnp.tanh(convolution(x, params["depthwise"], feature_group_count=4))
        return squared(convolution(hidden, params["grouped"], feature_group_count=2).sum(axis=(0, 1)), y)

    params = {"depthwise": weights(3, 3, 1, 4), "grouped": weights(2, 2, 2, 6)}
    return loss, params, normal(N, 4, 4, 4), normal(N, 6)


@case("columns columns rows")
def convolution_with_weight_decay():
    def loss(params, x, y):
        hidden = jnp.tanh(convolution(x, params["V"]))
        hidden = convolution(hidden, params["W"].transpose(3, 2, 0, 1), "NHWC", "OIHW").mean(axis=(0, 1))
        return squared(hidden + params["b"], y) + 0.2 * half_norm(params)

    params = {"V": weights(2, 2, 2, 3), "W": weights(2, 2, 3, 4), "b": weights(4)}
    return loss, params, normal(N, 4, 4, 2), normal(N, 4)


@case("rows")
def convolution_used_twice():
    def loss(W, x, y):
        return squared(convolution(jnp.tanh(convolution(x, W)), W), y)

    return loss, weights(2, 2, 2, 2), normal(N, 3, 3, 2), normal(N, 3, 3, 2)


# What else a loss may do


@case("rows rows rows")
def scalars_and_unused():
    def loss(params, x, y):
        return jnp.exp(-params["slope"] * x) * (params["level"] - y) ** 2

    return (
        loss,
        {"level": np.array(0.3), "slope": np.array(0.7), "unused": normal(2, 2)},
        normal(N),
        normal(N),
    )


@case("rows")
def constant():
    return lambda theta, x, y: x * y, normal(3), normal(N), normal(N)


@case("columns")
def bare_array():
    return (
        lambda theta, x, y: jax.nn.softplus(-y * (x @ theta)),
        normal(4),
        normal(N, 4),
        np.arange(N) % 2 * 2.0 - 1,
    )


@case("rows rows")
def branches_and_loops():
    def loss(params, x, y):
        x = lax.while_loop(lambda x: jnp.sum(x**2) < 30, lambda x: 1.5 * x, x)  # depends on the data alone
        x = lax.cond(x[0] > 0, lambda x: jnp.tanh(params["V"] @ x), lambda x: params["V"] @ x, x)
        x = lax.switch(y, [jnp.sin, jnp.cos, lambda x: x @ params["W"]], x)
        return jnp.sum(x) + lax.fori_loop(0, 2, lambda _, z: jnp.sin(z), jnp.sum(params["W"]) * x[0])

    return loss, {"V": weights(4, 4), "W": weights(4, 4)}, normal(N, 4), np.arange(N) % 3


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


@case("factors factors factors")
def custom_derivatives():
    def loss(params, x, y):
        x = jax.nn.relu(
            step(x - 1) + dense(x, jnp.eye(6)) + x
        )  # of the data alone: left as it is in the trace
        return squared(dense(step(dense(x, params[0]) @ params[1]), params[2]), y)

    return loss, [weights(6, 5), weights(5, 5), weights(5, 4)], normal(N, 6), normal(N, 4)


@case("factors factors rows")
def examples_are_trees_and_the_loss_holds_arrays():
    features, mask = normal(6, 3), normal(4) > 0

    def loss(params, x, y):
        hidden = jnp.tanh(params["V"] @ x["wide"] + features @ x["narrow"][0])
        return y[0] * jnp.sum(jnp.where(mask, params["W"] @ hidden - y[1]["target"], params["scale"][0]) ** 2)

    params = {"V": weights(6, 4), "W": weights(4, 6), "scale": (np.array(0.2), None)}
    x = {"wide": normal(N, 4), "narrow": [normal(N, 3), None]}
    return loss, params, x, (1 + normal(N) ** 2, {"target": normal(N, 4)})


@case("factors factors")
def noise_by_keys():
    def loss(params, x, y):
        kept = jax.random.bernoulli(x["key"], 0.7, (5,))
        return squared(jnp.where(kept, jnp.tanh(x["input"] @ params[0]), 0) @ params[1], x["input"])

    keys = jax.random.split(jax.random.key(0), N)
    return loss, (weights(6, 5), weights(5, 6)), {"key": keys, "input": normal(N, 6)}, None


@case("factors rows")
def one_example():
    return (
        lambda W, x, y: squared(x @ W[0] + W[1], y),
        (weights(8, 8), weights(8)),
        normal(1, 2, 8),
        normal(1, 2, 8),
    )


@case("rows rows rows rows rows")
def weights_that_are_scaled_masked_or_cut():
    mask = normal(6, 6) > 0

    def loss(params, x, y):
        x = (params["direction"] / jnp.linalg.norm(params["direction"]) * params["length"]) @ x
        x = jnp.tanh(jnp.where(mask, params["masked"], 0) @ x)
        x = jnp.concatenate([params["top"][:2], params["bottom"]]) @ x
        return squared(x, y)

    params = {"bottom": weights(2, 6), "direction": weights(6, 6), "length": np.array(1.5)}
    return loss, params | {"masked": weights(6, 6), "top": weights(3, 6)}, normal(N, 6), normal(N, 4)


# Models of others


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), tree)


@case("rows columns rows factors rows rows rows factors rows factors rows factors rows factors")
def flax_linen():
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)(nn.LayerNorm()(x))
            return nn.Dense(4)(nn.gelu(nn.Dense(9)(x)))

    params = in_float64(jax.jit(Block().init, compiler_options=QUICK)(jax.random.key(0), jnp.ones((2, 8))))
    return lambda params, x, y: squared(Block().apply(params, x), y), params, normal(N, 2, 8), normal(N, 2, 4)


@case("rows columns rows factors")
def flax_nnx():
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(0)
    convolve, dense = nnx.Conv(2, 3, (2, 2), rngs=rngs), nnx.Linear(3, 4, rngs=rngs)
    definition, params = nnx.split(nnx.List([convolve, dense]))

    def loss(params, x, y):
        convolve, dense = nnx.merge(definition, params)
        return squared(dense(nnx.relu(convolve(x)).mean(axis=(0, 1))), y)

    return loss, in_float64(params), normal(N, 4, 4, 2), normal(N, 4)


@case("factors rows factors rows factors rows")
def equinox():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    model = (eqx.nn.Linear(8, 9, key=keys[0]), eqx.nn.MLP(9, 4, 6, 1, key=keys[1]))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x, y):
        tokens, network = eqx.combine(params, static)
        return squared(network(jnp.tanh(jax.vmap(tokens)(x)).sum(axis=0)), y)

    return loss, in_float64(params), normal(N, 2, 8), normal(N, 4)


# Exact


def prepared(name):
    """A case as JAX arrays, in the precision of the test."""
    loss_fn, *data = CASES[name]()
    return loss_fn, *jax.tree.map(jnp.asarray, data)


def singly(loss_fn, params, x, y):
    """The losses and G, one example at a time: `oracles.gradients` for examples that are pytrees."""
    both = jax.jit(jax.value_and_grad(loss_fn), compiler_options=QUICK)
    n = len(jax.tree.leaves((x, y))[0])
    found = [both(params, *jax.tree.map(lambda leaf, i=i: leaf[i], (x, y))) for i in range(n)]
    return np.array([loss for loss, _ in found]), np.array(
        [ravel_pytree(tree)[0] for _, tree in found], float
    )


@cache
def known_singly(name):
    """In float64, once for all."""
    with jax.enable_x64(True):
        return singly(*prepared(name))


def all_at_once(leaves, loss_fn, params, x, y, weights, **options):
    """Losses, K and Gᵀw, compiled as one; `leaves` receives the way of every leaf."""

    def run(params, x, y, weights):
        found = ef.loss_gram(loss_fn, params, x, y, **options)
        leaves.extend(found.leaves)
        return found.losses, found.K, found.weighted_gradient(weights)

    return jax.jit(run, compiler_options=QUICK)(params, x, y, weights)


def primal(G, damping):
    """(C + εI)⁻¹g by p equations, in float64."""
    return np.linalg.solve(G.T @ G / len(G) + damping * np.eye(G.shape[1]), G.mean(axis=0))


def dual(G, damping):
    """The weights w of the examples: Gᵀw is the direction of `primal`."""
    return np.linalg.solve(oracles.gram(G) + damping * np.eye(len(G)), np.full(len(G), 1 / len(G)))


# Small chunks change little where most of it is factors: there they are not tried.
DENSE = [name for name in CASES if WAYS[name].count("factors") < len(WAYS[name]) / 2]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "chunk_size"), [(name, None) for name in CASES] + [(name, 1) for name in DENSE]
)
def test_exact(name, chunk_size):
    """The losses, K and Gᵀw by single gradients; then (C + εI)⁻¹g, by p equations and by n."""
    loss_fn, params, x, y = prepared(name)
    expected, G = known_singly(name)
    w, leaves = dual(G, EPSILON), []
    losses, K, pulled = all_at_once(leaves, loss_fn, params, x, y, w, chunk_size=chunk_size)
    u = ravel_pytree(pulled)[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    np.testing.assert_allclose(
        K, K.T, rtol=1e-12, atol=1e-12 * np.abs(K).max()
    )  # to the last bit outside jit only
    assert np.linalg.norm(K - oracles.gram(G)) <= 1e-12 * np.linalg.norm(K)
    assert np.linalg.norm(u - w @ G) <= 1e-12 * np.linalg.norm(w) * np.linalg.norm(G)
    # 1e-16 times the condition of C + εI, at most 1e6 here: ε is 0.01.
    assert np.linalg.norm(u - primal(G, EPSILON)) <= 1e-10 * np.linalg.norm(u)
    assert np.linalg.norm(ef.solve_gram(K, EPSILON) - w) <= 1e-10 * np.linalg.norm(w)
    assert jax.tree.structure(pulled) == jax.tree.structure(params)
    assert jax.tree.map(jnp.shape, pulled) == jax.tree.map(jnp.shape, params)

    assert [leaf.name for leaf in leaves] == [keystr(path) for path, _ in tree_leaves_with_path(params)]
    assert all(len(leaf.why) > 7 for leaf in leaves)
    if chunk_size is None:
        assert [leaf.way for leaf in leaves] == WAYS[name]


def test_ways_by_name():
    """Two blocks of one example's gradients are more than may be held at once, the bias alone is not."""
    loss_fn, params, x, y = CASES["embedding"]()
    ways = {}
    for chunk_size in (1, 5):
        leaves = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size).leaves
        ways[chunk_size] = {leaf.name: leaf.way for leaf in leaves}
    assert ways[1] == {"['embedding']": "blocks", "['output']": "factors"}
    assert ways[5] == {"['embedding']": "rows", "['output']": "factors"}


@pytest.mark.usefixtures("x64")
def test_many_examples_of_a_wide_network(monkeypatch):
    """K and the biases are more than may be held, but have what they need anyway: n² numbers, and the errors."""
    monkeypatch.setattr(sys.modules["efisher_teach.network.gram"], "NUMBERS", 4)

    def loss(params, x, y):
        (V, b), (W, c) = params
        return squared(jnp.tanh(x @ V + b) @ W + c, y)

    params = [(weights(4, 5), weights(5)), (weights(5, 3), weights(3))]
    x, y, w, leaves = normal(6, 4), normal(6, 3), normal(6), []
    losses, G = singly(loss, params, x, y)
    found = all_at_once(leaves, loss, params, x, y, w, chunk_size=None)
    assert [leaf.way for leaf in leaves] == ["factors", "rows"] * 2
    np.testing.assert_allclose(found[0], losses, rtol=1e-12)
    np.testing.assert_allclose(found[1], oracles.gram(G), rtol=1e-11)
    np.testing.assert_allclose(ravel_pytree(found[2])[0], w @ G, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 6, 99])
def test_chunks_do_not_show(chunk_size):
    """Blocks of 1, 2 and 3 of the 7 examples, where the last is not full; columns in parts of 1, 2, 3 and 5."""

    def loss(params, x, y):
        hidden = jnp.tanh(params["embedding"][x] + params["shift"])
        return squared(hidden @ params["columns"], y) + 0.1 * half_norm(params)

    params = {"columns": weights(3, 5), "embedding": weights(12, 3), "shift": weights(3)}
    x, y = np.random.default_rng(0).integers(0, 12, (7, 6)), normal(7, 6, 5)
    leaves, w = [], normal(7)
    losses, G = singly(loss, params, x, y)
    found = all_at_once(leaves, loss, params, x, y, w, chunk_size=chunk_size)
    assert [leaf.way for leaf in leaves] == ["columns", *(["blocks" if chunk_size < 6 else "rows"] * 2)]
    np.testing.assert_allclose(found[0], losses, rtol=1e-12)
    np.testing.assert_allclose(found[1], oracles.gram(G), rtol=1e-11)
    np.testing.assert_allclose(ravel_pytree(found[2])[0], w @ G, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_permuted_examples_permute_k():
    loss_fn, params, x, y = prepared("attention")
    order = np.array([3, 0, 4, 1, 2])
    K, permuted = (
        all_at_once([], loss_fn, params, x[i], y[i], jnp.ones(N))[1] for i in (np.arange(N), order)
    )
    np.testing.assert_allclose(permuted, K[order][:, order], rtol=1e-13)


# What it costs


def sizes(compiled):
    """How many numbers each array has that the optimised program makes."""
    return [
        prod(map(int, shape.split(","))) for shape in re.findall(r"\bf32\[([\d,]+)\]", compiled.as_text())
    ]


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


def large_embedding():
    def loss(params, x, y):
        return squared(jnp.tanh(params[x]).sum(axis=0), y)

    return loss, jnp.ones((500, 16)), jnp.zeros((40, 3), int), jnp.ones((40, 16))


def large_scan():
    def loss(W, x, y):
        return squared(lax.scan(lambda hidden, x: (jnp.tanh(hidden @ W + x), None), y, x)[0], y)

    return loss, jnp.ones((80, 80)), jnp.ones((40, 3, 80)), jnp.ones((40, 80))


def large_convolution():
    def loss(W, x, y):
        return squared(jnp.tanh(convolution(x, W)).sum(axis=(0, 1)), y)

    return loss, jnp.ones((3, 3, 16, 64)), jnp.ones((40, 3, 3, 16)), jnp.ones((40, 64))


@pytest.mark.parametrize("large", [large_embedding, large_scan, large_convolution])
def test_memory_is_bounded_by_chunks(large):
    loss_fn, params, x, y = large()
    G = 40 * params.size * 4  # bytes

    def temporary(chunk_size):
        def run(params, x, y):
            return ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size).K

        return jax.jit(run).lower(params, x, y).compile().memory_analysis().temp_size_in_bytes

    assert temporary(1) < G / 4
    assert temporary(None) > G * 0.9


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_the_loss_is_traced_once(chunk_size):
    loss_fn, params, x, y = prepared("embedding")
    calls = []

    def counted(params, x, y):
        calls.append(0)
        return loss_fn(params, x, y)

    pull = jax.jit(lambda found, weights: found.weighted_gradient(weights))
    for _ in range(3):
        found = ef.loss_gram(counted, params, x, y, chunk_size=chunk_size)
        pull(found, found.losses)
        calls.append(len(calls))
    assert calls[-2] > 0  # it is called, the first time
    assert calls[-1] == calls[-2] + 1


# Under jit and vmap


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_found_under_jit_and_pulled_outside(chunk_size):
    """ "rows" and "blocks" of the embedding, "factors" of the output."""
    loss_fn, params, x, y = prepared("embedding")
    G = jnp.asarray(known_singly("embedding")[1])
    eager = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
    jitted = jax.jit(lambda *data: ef.loss_gram(loss_fn, *data, chunk_size=chunk_size))(params, x, y)
    assert eager.leaves == jitted.leaves
    for found in (eager, jitted):
        u = ravel_pytree(found.weighted_gradient(ef.solve_gram(found.K, EPSILON)))[0]
        assert oracles.relative(found.K, oracles.gram(G)) < 1e-12
        assert (
            oracles.relative(u, ef.solve_primal(ef.empirical_fisher(G), ef.mean_gradient(G), EPSILON)) < 1e-10
        )


@pytest.mark.usefixtures("x64")
def test_mapped_over_parameters_and_dampings():
    loss_fn, params, x, y = prepared("embedding")
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf]), params)
    dampings = jnp.array([EPSILON, 1.0, 0.0])

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


def to(dtype, tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


@cache
def tanh_in_float32(*index):
    """Some of the examples; G of them in float64."""
    _, params, x, y = CASES["tanh"]()
    G = known_singly("tanh")[1]
    return G[np.array(index)], ef.loss_gram(mlp_loss, *to(jnp.float32, (params, x[[*index]], y[[*index]])))


@pytest.mark.parametrize("damping", [1e-1, 1e-3, 1e-5, 1e-7])
def test_float32(damping):
    G, found = tanh_in_float32(*range(N))
    u = ravel_pytree(found.weighted_gradient(ef.solve_gram(found.K, damping)))[0]
    assert found.K.dtype == found.losses.dtype == u.dtype == jnp.float32
    assert oracles.relative(u, primal(G, damping)) < 1e-5  # eps times the condition of K, at most 100


@pytest.mark.parametrize("damping", [0.0, 1e-9, 1e-7, 1e-3])
def test_repeated_examples_in_float32(damping):
    """K has rank 3. An ε below its rounding counts as 0, and moves u by ε/λ, which is less than rounding does."""
    G, found = tanh_in_float32(0, 0, 1, 2, 1)
    u = ravel_pytree(found.weighted_gradient(ef.solve_gram(found.K, damping)))[0]
    assert oracles.relative(u, oracles.direction(G, damping)) < 2e-5


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
    w = ef.solve_gram(jnp.asarray(K, dtype), damping, jnp.asarray(target, dtype) if given else None)
    visible = damping > n * oracles.unit(dtype) * np.linalg.eigvalsh(K)[-1]
    if visible:
        expected = np.linalg.solve(K + damping * np.eye(n), target)
    else:
        expected = np.linalg.pinv(K, rcond=1e-10, hermitian=True) @ target
    assert w.dtype == dtype
    # The condition of K, or of K + εI with ε = 0.01, is below 1e3; for ε = 1e-12 in float64 only the pull is defined.
    if visible and damping == 1e-12 and name == "rank 2":
        pytest.skip("what rounding leaves outside the range of K is divided by ε")
    assert oracles.relative(w, expected) < 1e4 * oracles.unit(dtype)


def test_solve_gram_under_vmap_takes_the_right_branch_for_each():
    K = jnp.asarray(oracles.gram(oracles.GRID["deficient"]), jnp.float32)
    dampings = jnp.array([0.0, 1e-2, 1.0])
    mapped = jax.vmap(partial(ef.solve_gram, K))(dampings)
    for row, damping in zip(mapped, dampings, strict=True):
        np.testing.assert_allclose(row, ef.solve_gram(K, damping), rtol=1e-3, atol=1e-5)


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


NAN, INF = float("nan"), float("inf")
EYE = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EYE[:2],), "`K` must be square (p, p); got shape (2, 3)."),
        ((EYE[:0, :0],), "`K` must be square (p, p); got shape (0, 0)."),
        ((EYE[0],), "`K` must be square (p, p); got shape (3,)."),
        ((np.tri(3),), "`K` must be symmetric; got |K - Kᵀ| up to 1."),
        (
            (EYE * np.array([1, NAN, 1])[:, None],),
            "`K` must be finite; got NaN or infinity in 1 of 3 rows: 1.",
        ),
        ((EYE, -1e-9), "`damping` must be finite and at least 0; got -1e-09."),
        ((EYE, NAN), "`damping` must be finite and at least 0; got nan."),
        ((EYE, np.ones(2)), "`damping` must be one number; got shape (2,)."),
        ((EYE, 0.1, np.ones(2)), "`target` must be of shape (3,), one number an example; got shape (2,)."),
        (
            (EYE, 0.1, np.array([1, INF, 1])),
            "`target` must be finite; got NaN or infinity in 1 of 3 rows: 1.",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_solve_gram_refuses(arguments, message):
    with raises(message):
        bare(ef.solve_gram)(*arguments)


# What it refuses


def line(theta, x, y):
    return (jnp.sum(theta * x) - y) ** 2 / 2


THETA, X, Y = np.ones(2, np.float32), np.ones((3, 2), np.float32), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (line, np.ones(2, int), X, Y),
            {},
            "`params` must be a pytree of floating-point arrays; got int64 at the root.",
        ),
        (
            (lambda *_: jnp.ones(()), {"a": THETA, "b": [1]}, X, Y),
            {},
            "floating-point arrays; got int at ['b'][0]. Only these have",
        ),
        (
            (lambda *_: jnp.ones(()), {}, X, Y),
            {},
            "`params` must be a pytree of floating-point arrays; got no array",
        ),
        (
            (lambda theta, x, y: theta * x, THETA, X, Y),
            {},
            "`loss_fn` must be a function that returns one number",
        ),
        ((line, THETA, X, Y[:2]), {}, "as many in y as in x; got shape (3, 2) and shape (2,)."),
        ((line, THETA, X[:0], Y[:0]), {}, "`x and y` must be non-empty; got 0 examples."),
        ((line, THETA, X, Y), {"chunk_size": 0}, "`chunk_size` must be a whole number of at least 1; got 0."),
        (
            (line, THETA, X, Y),
            {"chunk_size": 1.5},
            "`chunk_size` must be a whole number of at least 1; got 1.5.",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refuses(arguments, options, message):
    with raises(message):
        bare(ef.loss_gram)(*arguments, **options)


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("y", [[1.0, -1.0, 4.0, 2.0], [1.0, 0.0, 4.0, 2.0]], ids=["loss", "gradient alone"])
@pytest.mark.parametrize("way", ["factors", "rows", "columns"])
def test_names_the_example_that_is_not_finite(way, y, chunk_size):
    """√y is undefined below 0, and steep without limit at 0."""

    def loss(params, x, y):
        root = jnp.sqrt(y * jnp.sum(params["W"] ** 2))
        hidden = {"factors": x[0] @ params["W"], "rows": params["W"][0], "columns": x @ params["W"]}[way]
        return root + squared(hidden, y) if way == "rows" else squared(hidden * root, y)

    with raises("`loss_fn` must be finite; got NaN or infinity in 1 of 4 rows: 1. Its value or its gradient"):
        ef.loss_gram(
            loss, {"W": jnp.ones((4, 3))}, jnp.ones((4, 6, 4)), jnp.asarray(y), chunk_size=chunk_size
        )


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
    G = np.concatenate(
        [np.float64(leaf).reshape(6, -1) for leaf in rows], axis=1
    )  # rounded to bfloat16, each entry
    assert known.K.dtype == jnp.float32
    assert oracles.relative(known.K, G @ G.T / 6) < 3e-3
    weights = ef.solve_gram(known.K, 0.01)
    for pulled, leaf in zip(known.weighted_gradient(weights), rows, strict=True):
        assert pulled.dtype == kept
        expected = np.einsum("n,nab->ab", np.float64(weights), np.float64(leaf))
        assert oracles.relative(pulled, expected) < 2e-2
