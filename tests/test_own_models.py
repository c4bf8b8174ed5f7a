"""The recipes of notebook 12 for models of other frameworks run as they stand there, and their G is that of a loop."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import oracles
import pytest

import efisher_teach as ef

pytestmark = pytest.mark.heavy

CELLS = nbformat.read(Path(__file__).parent.parent / "notebooks/12_your_model.ipynb", as_version=4).cells
(MODEL,) = [cell.source for cell in CELLS if cell.source.startswith("# ↓ Your own model")]
# What a recipe replaces lies between the data and the loss.
DATA, LOSS = MODEL[: MODEL.index("first, second =")], MODEL[MODEL.index("def loss_fn") :]
RECIPES = {
    block.split()[1]: block
    for cell in CELLS
    if cell.cell_type == "markdown" and "exercise" not in cell.metadata
    for block in re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL)
}


def run(*parts):
    names = {"jax": jax, "jnp": jnp, "np": np, "ef": ef}
    for part in parts:
        exec(part, names)
    return names


@pytest.mark.parametrize("framework", ["", "equinox", "flax"])
def test_models_of_other_frameworks(framework):
    """And of none: G of the library is one gradient after the other, and every tool takes the model."""
    assert list(RECIPES) == ["equinox", "flax", "torch"]
    if framework:
        pytest.importorskip(framework)
    mine = run(*((DATA, RECIPES[framework], LOSS) if framework else (MODEL,)))["mine"]
    here = mine.loss_fn, mine.params, mine.x, mine.y
    G, loop = ef.per_example_gradients(*here), oracles.gradients(*here)
    assert G.shape == (120, 275)  # 13·16 + 16 + 16·3 + 3
    np.testing.assert_allclose(G, loop, rtol=0, atol=1e-5 * np.abs(loop).max())
    K = ef.loss_gram(*here).K
    np.testing.assert_allclose(K, G @ G.T / 120, rtol=0, atol=1e-4 * np.abs(K).max())
    assert ef.scenes.your_model(mine).axes[0].name == "damping"
    assert ef.mean_loss(mine, mine.params) < 0.6  # it has learned something: log 3 is 1.1
    probabilities = jax.vmap(mine.predict_fn, (None, 0))(mine.params, mine.x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_table_from_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    names = run(DATA, RECIPES["torch"])
    table, net, loop = names["table"], names["net"], []
    for x, y in zip(names["inputs"], names["labels"], strict=True):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(x[None]), y[None]).backward()
        loop.append(np.concatenate([each.grad.numpy().ravel() for each in net.parameters()]))
    np.testing.assert_allclose(table, loop, rtol=0, atol=1e-6)
    assert table.shape == (178, 275)
    assert ef.scenes.your_model(G=table).axes[0].name == "damping"


@pytest.mark.parametrize("held_out", [True, False])
def test_the_other_cells_need_only_mine(held_out):
    """A model of another kind in the place of the wines: more examples than parameters, two classes, no network."""
    mine = ef.descend(ef.logistic_regression(n=40, p=5), steps=3)
    names = {"mine": mine if held_out else mine._replace(x_test=None, y_test=None)}
    for cell in CELLS:
        given = "exercise" in cell.metadata or "colab" in cell.metadata.get("tags", ())
        if cell.cell_type == "code" and not given and cell.source != MODEL:
            exec(cell.source, names)
    assert names["G"].shape == (40, 5)
    assert names["rank"] == 5


def test_dropout_of_flax():
    """Each example drops with a key of its own, in the step as in its report; `fit` gives a key to each step."""
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.Dropout(0.5, deterministic=False)(nn.tanh(nn.Dense(5)(x))))[0]

    def loss_fn(params, x, y, key):
        return (Net().apply(params, x, rngs={"dropout": key}) - y) ** 2 / 2

    params = Net().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, jnp.zeros(3))
    x, y = jax.random.normal(jax.random.key(2), (8, 3)), jnp.arange(8.0)
    update = ef.make_update(loss_fn, damping=0.1, budget=0.01, radius=0.1, needs_key=True)
    moved, report = update(params, x, y, key=jax.random.key(3))
    keyed = x, jax.random.split(jax.random.key(3), 8)
    G = ef.per_example_gradients(lambda params, x, y: loss_fn(params, x[0], y, x[1]), params, keyed, y)
    assert len({tuple(row == 0) for row in np.asarray(G)}) > 4  # other units are dropped
    step = ef.empirical_fisher_step(G, damping=0.1, learning_rate=float(report.learning_rate)).delta
    delta = oracles.flat(moved) - oracles.flat(params)
    np.testing.assert_allclose(delta, step, rtol=1e-3, atol=1e-5)
    run = ef.fit(update, params, x, y, steps=20, key=jax.random.key(0), progress=False)
    assert run.reports.loss[-5:].mean() < run.reports.loss[0]
