"""K = GGᵀ/n and w ↦ Gᵀw of any loss, against one example at a time: exact, without G, and in little memory."""

import sys
from functools import partial

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
singly = partial(oracles.singly, compiler_options=QUICK)
CASES = {}
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
        CASES[name] = ways.split(), loss_fn, params, x, y
        return loss_fn

    return add


def squared(output, y):
    return jnp.sum((output - y) ** 2) / 2


def half_norm(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2


# Dense layers


@case("factors factors rows rows", (4,), (4,), V=(4, 4), W=(4, 4), a=(4,), b=(4,))
def tanh(params, x, y):
    """Square, so that factors in the wrong order would fit all the same."""
    return squared(params["V"] @ jnp.tanh(x @ params["W"] + params["a"]) + params["b"], y)


@case("factors factors factors", (6,), (4,), U=(5, 6), V=(5, 2, 3), W=(3, 4, 2))
def einsum(params, x, y):
    hidden = jnp.tanh(jnp.einsum("i,ji->j", x, params["U"]))
    hidden = jnp.tanh(jnp.einsum("j,jkl->kl", hidden, params["V"]))
    return squared(jnp.einsum("kl,lmk->m", hidden, params["W"]), y)


@case("factors factors factors rows", (8,), (4,), cube=(2, 4, 8), square=(8, 8), turned=(2, 4, 4), z=(8,))
def weight_decay_where_weights_are_shared_or_moved(params, x, y):
    hidden = jnp.tanh(x @ params["square"]) @ params["square"].T + params["z"]
    for _ in range(2):  # reshaped alike, and so they can be added
        hidden = jnp.tanh(params["cube"].reshape(8, 8) @ hidden)
    hidden = params["turned"].transpose(2, 0, 1).reshape(4, 8) @ hidden
    return squared(hidden, y) + 0.3 * half_norm(params) + jnp.sum(jnp.sin(params["square"]))


@case("rows", (5,), (5, 5), (5, 5, 5))  # large enough for factors to pay
def cube_turned_otherwise_at_each_use(W, x, y):
    """The products have the same shape, and only their moves tell them apart."""
    return squared(jnp.einsum("j,ijk->ik", x, W) + jnp.einsum("k,ijk->ij", jnp.tanh(x), W), y)


@case("factors factors factors rows", (18,), LABELS % 3, U=(18, 18), V=(18, 18), W=(18, 3), a=(18,))
@jax.jit
def checkpoint(params, x, y):
    def block(params, x):
        return jnp.tanh(params["V"] @ jax.jit(jax.nn.relu)(x @ params["U"] + params["a"]))

    saved = jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)
    hidden = jax.checkpoint(block)(params, jax.checkpoint(jax.jit(block))(params, x))
    return -jax.nn.log_softmax(saved(params, hidden) @ params["W"])[y]


@case("factors factors", (2, 3, 8), (2, 3, 8), V=(3, 8, 9), W=(3, 8, 9))
def a_weight_for_each_head(params, x, y):
    hidden = jnp.tanh(jnp.einsum("thd,hdk->thk", x, params["V"]))
    decay = jnp.sum(params["W"] ** 3) / 3
    return squared(jnp.einsum("thk,hmk->thm", hidden, params["W"]), y) + 0.2 * decay


# Sequences

HEADS = dict.fromkeys("KQV", (8, 2, 4)) | {"O": (2, 4, 8)}


@case("factors factors factors factors rows rows", (2, 8), (2, 8), **HEADS, scale=(8,), shift=(8,))
def attention(params, x, y):
    normalised = jax.nn.standardize(x) * params["scale"] + params["shift"]
    q, k, v = (jnp.einsum("td,dhk->thk", normalised, params[name]) for name in "KQV")
    scores = jax.nn.softmax(jnp.einsum("thk,shk->hts", q, k) / 2)
    mixed = jnp.einsum("hts,shk->thk", scores, v)
    return squared(x + jnp.einsum("thk,hkd->td", mixed, params["O"]), y)


@case("rows columns", (4, 2, 3), (4, 20), V=(2, 3, 12), W=(20, 24))
def longer_sequence(params, x, y):
    hidden = jnp.tanh(jnp.einsum("thd,hdk->thk", x, params["V"])).reshape(4, 24)
    return squared(hidden @ params["W"].T, y) + 0.1 * (half_norm(params) + jnp.sum(jnp.sin(params["V"])))


@case("rows factors", (6,), (4,), V=(6, 6), W=(6, 4))
def dense_layer_inside_and_outside_a_scan(params, x, y):
    x = lax.fori_loop(0, 3, lambda _, x: jnp.tanh(params["V"] @ x), x @ params["V"])
    return squared(x @ params["W"], y)


@case("rows factors", WORDS, LABELS, embedding=(9, 4), output=(4, 9))
def embedding(params, x, y):
    return -jax.nn.log_softmax(params["embedding"][x].mean(axis=0) @ params["output"])[y]


# Convolutions


def convolution(x, W, layout="NHWC", kernel="HWIO", strides=(1, 1), **options):
    numbers = (layout, kernel, layout)
    return lax.conv_general_dilated(x[None], W, strides, "SAME", dimension_numbers=numbers, **options)[0]


@case("columns columns rows", (5, 4, 2), (4,), V=(3, 2, 2, 3), W=(2, 2, 3, 4), b=(3,))
def convolution_with_channels_last_and_weight_decay(params, x, y):
    hidden = jnp.tanh(convolution(x, params["V"], strides=(2, 1)) + params["b"])
    moved = params["W"].transpose(3, 2, 0, 1)
    hidden = convolution(hidden, moved, "NHWC", "OIHW", rhs_dilation=(1, 2)).mean(axis=(0, 1))
    return squared(hidden, y) + 0.2 * half_norm(params)


@case("columns columns", (2, 4, 5), (4,), V=(3, 2, 3, 2), W=(4, 3, 2, 2))
def convolution_with_channels_first(params, x, y):
    convolve = partial(convolution, layout="NCHW", kernel="OIHW")
    hidden = jnp.tanh(convolve(x, params["V"], strides=(1, 2)))
    return squared(convolve(hidden, params["W"]).sum(axis=(1, 2)), y)


@case("rows rows rows", (4, 4, 4), (6,), depthwise=(3, 3, 1, 4), grouped=(2, 2, 2, 6), twice=(2, 2, 4, 4))
def convolution_in_groups_or_used_twice(params, x, y):
    x = convolution(jnp.tanh(convolution(x, params["twice"])), params["twice"])
    hidden = jnp.tanh(convolution(x, params["depthwise"], feature_group_count=4))
    return squared(convolution(hidden, params["grouped"], feature_group_count=2).sum(axis=(0, 1)), y)


# Other losses


@case("rows rows", (4,), LABELS % 3, V=(4, 4), W=(4, 4))
def branches_and_loops(params, x, y):
    # Of the data alone: left as they are in the trace.
    x = jax.nn.relu(lax.while_loop(lambda x: jnp.sum(x**2) < 30, lambda x: 1.5 * x, x)) + x
    x = lax.cond(x[0] > 0, lambda x: jnp.tanh(params["V"] @ x), lambda x: params["V"] @ x, x)
    x = lax.switch(y, [jnp.sin, jnp.cos, lambda x: x @ params["W"]], x)
    return jnp.sum(x) + lax.fori_loop(0, 2, lambda _, z: jnp.sin(z), jnp.sum(params["W"]) * x[0])


@case("rows", (4,), (), w=(4, 3))
def fourier_layer(params, x, y):
    """Its gradient comes back from complex numbers, through which it is not followed."""
    return jnp.sum(jnp.abs(jnp.fft.fft(x) @ params["w"]) ** 2) / 2 - y


TREE = {"V": weights(6, 4), "W": weights(4, 6), "scale": (np.array(0.2), None)}
INPUTS = {"wide": normal(N, 4), "narrow": [normal(N, 3), None], "seed": LABELS}


@case("factors factors rows", INPUTS, [1 + normal(N) ** 2, {"target": normal(N, 4)}], TREE)
def examples_are_trees_and_the_loss_holds_arrays_and_draws(params, x, y):
    features, mask = normal(6, 3), normal(4) > 0
    hidden = jnp.tanh(params["V"] @ x["wide"] + features @ x["narrow"][0])
    hidden = jnp.where(jax.random.bernoulli(jax.random.key(x["seed"]), 0.7, (6,)), hidden, 0)
    return y[0] * jnp.sum(jnp.where(mask, params["W"] @ hidden - y[1]["target"], params["scale"][0]) ** 2)


SCALED = {"bottom": (2, 6), "top": (3, 6), "unused": (2, 2), "length": ()}
SCALED |= dict.fromkeys(["direction", "masked"], (6, 6))


@case("rows rows rows rows rows rows", normal(1, 6), normal(1, 4), **SCALED)
def one_example_and_weights_that_are_scaled_masked_or_cut(params, x, y):
    x = (params["direction"] / jnp.linalg.norm(params["direction"]) * params["length"]) @ x
    x = jnp.tanh(jnp.where(normal(6, 6) > 0, params["masked"], 0) @ x)
    return squared(jnp.concatenate([params["top"][:2], params["bottom"]]) @ x, y)


# Exact


def prepared(name):
    """A case as JAX arrays, in the precision of the test."""
    ways, loss_fn, *data = CASES[name]
    return ways, loss_fn, *jax.tree.map(jnp.asarray, data)


def check(ways, loss_fn, params, x, y, chunk_size=None):
    """Losses, K and Gᵀw by single gradients, compiled as one; then (C + εI)⁻¹g, by p equations and by n."""
    expected, G = singly(loss_fn, params, x, y)
    K = oracles.gram(G)
    w = np.linalg.solve(K + DAMPING * np.eye(len(G)), np.full(len(G), 1 / len(G)))
    leaves = []

    def run(params, x, y, w):
        found = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
        leaves.extend(found.leaves)
        return found.losses, found.K, found.weighted_gradient(w)

    losses, found, combined = jax.jit(run, compiler_options=QUICK)(params, x, y, w)
    u = oracles.flat(combined)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    # Exactly outside jit only.
    np.testing.assert_allclose(found, found.T, rtol=1e-12, atol=1e-12 * np.abs(K).max())
    assert np.linalg.norm(found - K) <= 1e-12 * np.linalg.norm(K)
    assert np.linalg.norm(u - w @ G) <= 1e-12 * np.linalg.norm(w) * np.linalg.norm(G)
    # 1e-16 times the condition of C + εI, at most 1e6 here: ε is 0.01.
    assert np.linalg.norm(u - oracles.direction(G, DAMPING)) <= 1e-10 * np.linalg.norm(u)
    assert jax.tree.map(jnp.shape, combined) == jax.tree.map(jnp.shape, params)
    assert [leaf.name for leaf in leaves] == [keystr(path) for path, _ in tree_leaves_with_path(params)]
    assert [leaf.way for leaf in leaves] == ways


@pytest.mark.parametrize("name", CASES)
def test_exact(name, monkeypatch, x64):
    check(*prepared(name))
    if name == "tanh":  # K and the biases have what they need even where it is more than may be held
        monkeypatch.setattr(sys.modules["efisher_teach.network.gram"], "NUMBERS", 4)
        check(*prepared(name))
    if "channels" in name:  # which may be made one by one
        check(*prepared(name), chunk_size=1)


def test_half_of_k_is_made_where_examples_are_many(x64):
    """In blocks that do not divide them evenly; a layer by its factors, twice an example, a bias by its rows."""
    params, x = {"W": weights(9, 8), "b": weights(9)}, normal(515, 2, 8)
    loss_fn = lambda params, x, y: squared(jnp.tanh(x @ params["W"].T + params["b"]), y)  # noqa: E731
    found = ef.loss_gram(loss_fn, params, jnp.asarray(x), jnp.zeros(515))
    assert [leaf.way for leaf in found.leaves] == ["factors", "rows"]
    G = ef.per_example_gradients(loss_fn, params, jnp.asarray(x), jnp.zeros(515))
    np.testing.assert_allclose(found.K, G @ G.T / 515, rtol=0, atol=1e-12 * np.abs(found.K).max())


@pytest.mark.parametrize(("chunk_size", "way"), [(1, "blocks"), (4, "blocks"), (6, "rows")])
def test_chunks_do_not_show(chunk_size, way, x64):
    """Blocks of 1 and 2 of the 7 examples, where the last is not full; columns 2 at a time, and all 5."""

    def loss(params, x, y):
        hidden = jnp.tanh(params["embedding"][x] + params["shift"])
        return squared(hidden @ params["columns"], y) + 0.1 * half_norm(params)

    params = {"columns": weights(3, 5), "embedding": weights(12, 3), "shift": weights(3)}
    x = np.random.default_rng(0).integers(0, 12, (7, 6))
    check(["columns", way, way], loss, params, x, normal(7, 6, 5), chunk_size)


# Memory


def bias_between(params, x, y):
    """Its gradient is a product too, of the errors and of weights that are the same for all."""
    return squared((x @ params["V"] + params["b"]) @ params["W"], y)


def lookup(E, x, y):
    return squared(jnp.tanh(E[x]).sum(axis=0), y)


LAYERS = {"V": jnp.ones((40, 48)), "W": jnp.ones((48, 44)), "b": jnp.ones(48)}
LARGE = {  # chunk_size where a quarter of G is enough, and the loss with its data
    "dense": (None, bias_between, LAYERS, jnp.ones((24, 40)), jnp.ones((24, 44))),
    "embedding": (1, lookup, jnp.ones((500, 16)), jnp.zeros((40, 3), int), jnp.ones((40, 16))),
}


@pytest.mark.parametrize("name", LARGE)
def test_gradients_are_not_formed_or_a_few_at_a_time(name):
    small, loss_fn, params, x, y = LARGE[name]
    G = len(y) * ravel_pytree(params)[0].size * 4  # bytes

    def temporary(chunk_size):
        def run(params, x, y, w):
            found = ef.loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
            return found.K, found.weighted_gradient(w)

        compiled = jax.jit(run).lower(params, x, y, jnp.ones(len(y))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(small) < G / 4
    assert small is None or temporary(None) > G * 0.9


# As a part of JAX


@pytest.mark.parametrize(("chunk_size", "way"), [(None, "rows"), (1, "blocks")])
def test_made_under_jit_and_vmap_or_not(chunk_size, way, x64):
    """And combined outside. The loss is traced once, however often it is used."""
    _, loss_fn, params, x, y = prepared("embedding")
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf, leaf / 2]), params)
    dampings, calls = jnp.array([DAMPING, 1.0, 0.0]), []

    def counted(params, x, y):
        calls.append(None)
        return loss_fn(params, x, y)

    def made(params):
        return ef.loss_gram(counted, params, x, y, chunk_size=chunk_size)

    def direction(found, damping):
        return found.weighted_gradient(ef.solve_gram(found.K, damping))

    mapped = jax.vmap(direction)(jax.jit(jax.vmap(made))(many), dampings)
    for i, damping in enumerate(dampings):
        one, u = (jax.tree.map(lambda leaf, i=i: leaf[i], each) for each in (many, mapped))
        found, jitted, (_, G) = made(one), jax.jit(made)(one), singly(loss_fn, one, x, y)
        assert [leaf.way for leaf in found.leaves] == [way, "factors"]
        assert jitted.leaves == found.leaves
        np.testing.assert_array_equal(found.K, found.K.T)
        for each in (u, direction(found, damping), direction(jitted, damping)):
            assert oracles.relative(oracles.flat(each), oracles.direction(G, float(damping))) < 1e-9
    calls.clear()
    made(params).weighted_gradient(found.losses)
    assert calls == []


@pytest.mark.parametrize("kept", ["bfloat16", "float32"])
def test_low_precision_is_summed_in_float32(kept):
    """The factors have eight bits; K, made from them, adds no error of its own, and can be solved with."""

    def loss(params, x, y):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
        return jnp.sum((jnp.tanh(low[1] @ low[0][0]) @ low[0][1]).astype(jnp.float32) ** 2) * y

    params = [jnp.asarray(weights(*shape) / 2, kept) for shape in ((16, 32), (32, 8))]
    x, y = jnp.asarray(normal(6, 16), jnp.float32), jnp.ones(6)
    known = ef.loss_gram(loss, params, x, y)
    rows = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, x, y)
    # G is rounded to bfloat16, each entry.
    G = np.concatenate([np.float64(leaf).reshape(6, -1) for leaf in rows], axis=1)
    assert known.K.dtype == jnp.float32
    assert oracles.relative(known.K, G @ G.T / 6) < 3e-3
    np.testing.assert_allclose(np.diag(known.K), np.sum(G**2, axis=1) / 6, rtol=2e-3)
    coefficients = ef.solve_gram(known.K, 0.01)
    for found, leaf in zip(known.weighted_gradient(coefficients), rows, strict=True):
        assert found.dtype == kept
        assert oracles.relative(found, np.einsum("n,n...", coefficients, np.float64(leaf))) < 2e-2
