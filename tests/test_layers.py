"""The rooms: what may import what, what importing costs, and the habits that can be read off the source."""

import ast
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.core import precision

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "efisher_teach"
NODES = {path: list(ast.walk(ast.parse(path.read_text()))) for path in sorted(PACKAGE.rglob("*.py"))}
NOT_JAX = ("precision", "problems", "proof", "premises", "misfit")  # the last three are in NumPy
each_module = pytest.mark.parametrize("path", NODES, ids=lambda path: str(path.relative_to(PACKAGE)))
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
    command = [sys.executable, "-c", PURE]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert found["changed"] == []
    assert {"matplotlib", "ipywidgets", "anywidget", "IPython", "traitlets"} & set(found["loaded"]) == set()
    assert {"efisher_teach", "jax"} <= set(found["loaded"])


def test_data_goes_one_way():
    """The six contracts in pyproject.toml."""
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 6 kept, 0 broken." in result.stdout


def products(nodes):
    """Every dense product in a module that does not say its precision."""
    for node in nodes:
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            yield f"line {node.lineno}: @"
        elif isinstance(node, ast.Attribute) and node.attr in PRODUCTS:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and node.module != "efisher_teach.core.precision":
            yield from (f"line {node.lineno}: {name.name}" for name in node.names if name.name in PRODUCTS)


@each_module
def test_every_product_states_its_precision(path):
    """All go through `precision.dot`: GPUs round float32 products to TF32 otherwise."""
    if path.parent.name in ("core", "network") and path.stem not in NOT_JAX:
        assert list(products(NODES[path])) == []


def test_the_search_for_products_finds_them():
    source = "import jax.numpy as jnp\nfrom jax.numpy import dot\nA @ B\njnp.einsum('ij,j', A, b)\nA.dot(b)\nA @= B"
    assert len(list(products(ast.walk(ast.parse(source))))) == 5
    square = np.eye(2)
    for program in jax.make_jaxpr(precision.dot), jax.make_jaxpr(partial(precision.einsum, "ij,jk")):
        assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in str(program(square, square))


@each_module
def test_words_have_one_meaning(path):
    """The glossary, where names can hold it: ε is `damping`, θ is `params`, Gᵀw is `weighted_gradient`."""
    fields = ("id", "attr", "arg", "name")
    names = {getattr(node, field, None) for node in NODES[path] for field in fields} - {None}
    assert not names & {"epsilon", "func"}
    assert {name for name in names if "pull" in name} <= {"pull_back", "every_example_pulls"}
    if "lessons" not in path.parts and path.stem not in ("coordinates", "proof"):
        assert "theta" not in names
    keys = {node.value for node in NODES[path] if isinstance(node, ast.Constant)}
    assert not keys & {"theta", "epsilon", "train", "sample"}
    assert not re.search(r"\d\.0 \+ 0 \* |\+ 0 \* [a-z]", path.read_text()), "a constant in disguise"
    assert not names & {"exec", "eval"}, "no code in strings"


@each_module
def test_what_is_private_is_read_in_its_class_only(path):
    """But for what begins with an underscore in every NamedTuple: it is public in all but name."""
    allowed = re.compile(r"(self|cls|super\(\))\.\w+|.*\._(repr_\w*|replace|asdict|field_defaults|fields)")
    read = [ast.unparse(node) for node in NODES[path] if isinstance(node, ast.Attribute)]
    private = [each for each in read if re.search(r"\._[a-z]\w*$", each) and not allowed.fullmatch(each)]
    assert private == []


def test_core_is_read_in_an_evening():
    """At most 1500 lines of code: no blank ones, no comments, no docstrings."""
    total = 0
    for path in (PACKAGE / "core").glob("*.py"):
        texts = [node.value for node in NODES[path] if isinstance(node, ast.Expr)]
        texts = [node for node in texts if isinstance(node, ast.Constant)]
        documented = {line for node in texts for line in range(node.lineno, node.end_lineno + 1)}
        lines = enumerate(path.read_text().splitlines(), 1)
        total += sum(line.strip(" ")[:1] not in ("", "#") for k, line in lines if k not in documented)
    assert 500 < total <= 1500


def test_public_names_are_sorted_and_few_and_unknown_ones_are_refused():
    assert ef.__all__ == sorted(ef.__all__)
    assert len(ef.__all__) <= 50
    with pytest.raises(AttributeError, match="has no attribute 'explain'"):
        ef.explain  # noqa: B018
