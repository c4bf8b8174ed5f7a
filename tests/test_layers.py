"""The rooms: what may import what, what importing costs, and the habits that can be read off the source."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import efisher_teach as ef

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "efisher_teach"
MATHEMATICS = ["likelihoods", "gradients", "curvature", "_ways", "gram", "solve", "step", "optimizer"]
PRODUCTS = {"dot", "matmul", "einsum", "vdot", "inner", "tensordot", "dot_general", "vecdot", "multi_dot"}
PURE = """
import json, sys, jax
before = dict(jax.config.values)
import efisher_teach
after = dict(jax.config.values)
changed = [name for name in after if before.get(name) != after[name]]
print(json.dumps({"changed": changed, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def test_import_loads_no_figures_and_changes_no_setting():
    result = subprocess.run(
        [sys.executable, "-c", PURE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(result.stdout)
    assert found["changed"] == []
    assert {"matplotlib", "ipywidgets", "anywidget", "IPython", "traitlets"} & set(found["loaded"]) == set()
    assert {"efisher_teach", "jax"} <= set(found["loaded"])


def test_data_goes_one_way():
    """The contracts in pyproject.toml."""
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed here")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def products(tree):
    """Every dense product in a module that does not say its precision."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            yield f"line {node.lineno}: @"
        elif isinstance(node, ast.Attribute) and node.attr in PRODUCTS:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and node.module != "efisher_teach.core.precision":
            yield from (f"line {node.lineno}: {name.name}" for name in node.names if name.name in PRODUCTS)


@pytest.mark.parametrize("module", MATHEMATICS)
def test_every_product_states_its_precision(module):
    """All go through `_precision.dot`: GPUs round float32 products to TF32 otherwise."""
    assert list(products(ast.parse((PACKAGE / f"{module}.py").read_text()))) == []


def test_the_search_for_products_finds_them():
    source = "import jax.numpy as jnp\nfrom jax.numpy import dot\nA @ B\njnp.einsum('ij,j', A, b)\nA.dot(b)\nA @= B"
    assert len(list(products(ast.parse(source)))) == 5
    assert "highest" in (PACKAGE / "_precision.py").read_text()


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_every_module_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].rstrip().endswith((".", ":", "?", "!"))


@pytest.mark.parametrize("name", ef.__all__)
def test_public_names(name):
    """They exist, and say what goes in and what comes out."""
    value = getattr(ef, name)
    assert value.__doc__
    if inspect.isroutine(value):
        for argument in inspect.signature(value).parameters:
            assert re.search(rf"^ +{argument}: ", value.__doc__, re.MULTILINE), f"{name}: {argument}"
        for section in (*["Args:"] * bool(inspect.signature(value).parameters), "Returns:"):
            assert re.search(rf"^ +{section}$", value.__doc__, re.MULTILINE), f"{name}: {section}"


def test_public_names_are_sorted_and_unknown_ones_are_refused():
    assert ef.__all__ == sorted(ef.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'explain'"):
        ef.explain  # noqa: B018
