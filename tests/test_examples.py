"""Every public name has an example in its docstring, where the reference of the library shows it; and it is true."""

import doctest
import importlib
import inspect
import pkgutil
import re
from textwrap import dedent

import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.browser.record import RECORD

# What stands before the examples, as the package's docstring says.
BEFORE = dedent(re.search(r"\n\n((?: {4}.*\n)+)", ef.__doc__)[1])
MODULES = [
    importlib.import_module(found.name) for found in pkgutil.walk_packages(ef.__path__, "efisher_teach.")
]
NAMES = {
    f"{module.__name__}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if getattr(value, "__module__", "") == module.__name__ and "Examples:\n" in (value.__doc__ or "")
}


def run(docstring, name="", module=ef):
    """What is wrong with the examples of a docstring, as text; they may use the names of their module."""
    names, report = dict(vars(module)), []
    with np.printoptions():
        exec(BEFORE, names)
        test = doctest.DocTestParser().get_doctest(docstring, names, name, None, None)
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("room", [ef, ef.coordinates, ef.scenes], ids=lambda room: room.__name__)
def test_every_public_name_has_an_example(room):
    names = [name for name in getattr(room, "__all__", dir(room)) if name[0] != "_" and name != "enter"]
    values = [value for value in (getattr(room, name) for name in names) if callable(value)]
    ours = [value for value in values if value.__module__.startswith("efisher_teach")]
    assert ours
    assert [value for value in ours if value not in NAMES.values()] == []


@pytest.mark.parametrize("name", NAMES)
def test_example(name):
    RECORD.clear()  # as in a new kernel
    docstring = NAMES[name].__doc__
    examples = doctest.DocTestParser().get_examples(docstring)
    assert any(example.want for example in examples), f"the example of {name} shows nothing"
    wrong = run(docstring, name, inspect.getmodule(NAMES[name]))
    assert not wrong, wrong


def test_a_wrong_example_is_found():
    assert "Got:\n    [0.5 1. ]" in run(">>> print(np.array([0.5, 1.0004]))\n[0.5 2. ]\n")
