"""Every public name has an example in its docstring, where the reference of the library shows it; and it is true."""

import doctest
import inspect
import re
from textwrap import dedent
from types import ModuleType

import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.browser.record import RECORD

# What stands before the examples, as the package's docstring says.
BEFORE = dedent(re.search(r"\n\n((?: {4}.*\n)+)", ef.__doc__)[1])


def public(path, module):
    """The functions and classes that a module offers, by their paths, with those of the modules that it offers."""
    offered = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", "") == module.__name__
    ]
    for name in offered:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            yield from public(f"{path}.{name}", value)
        elif inspect.isroutine(value) or inspect.isclass(value):
            yield f"{path}.{name}", value


# Each once, by its shortest path: `ef.coordinates.jacobian` is `jacobian`.
NAMES = {value: name for name, value in sorted(public("ef", ef), key=lambda pair: -pair[0].count("."))}
NAMES = {name: value for value, name in NAMES.items()}


def run(docstring, name):
    """What is wrong with the examples of a docstring, as text."""
    names, report = {}, []
    with np.printoptions():
        exec(BEFORE, names)
        test = doctest.DocTestParser().get_doctest(docstring, names, name, None, None)
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    return "".join(report)


def test_no_name_is_forgotten():
    modules = {f"ef.{name}" for name in ("coordinates", "derivation", "likelihoods", "scenes")}
    assert {f"ef.{name}" for name in ef.__all__} - set(NAMES) == modules
    assert {"ef.coordinates.affine", "ef.scenes.the_best_step"} <= set(NAMES)
    assert "ef.coordinates.jacobian" not in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example(name):
    RECORD.clear()  # as in a new kernel
    _, section, text = NAMES[name].__doc__.partition("Examples:\n")
    examples = doctest.DocTestParser().get_examples(text)
    assert section, f"{name} has no example"
    assert any(example.want for example in examples), f"the example of {name} shows nothing"
    wrong = run(NAMES[name].__doc__, name)
    assert not wrong, wrong


def test_a_wrong_example_is_found():
    assert "Got:\n    [0.5 1. ]" in run(">>> print(np.array([0.5, 1.0004]))\n[0.5 2. ]\n", "wrong")
