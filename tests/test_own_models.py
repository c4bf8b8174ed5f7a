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
    G, loop = ef.per_example_gradients(*here), oracles.singly(*here)[1]
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
