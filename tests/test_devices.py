"""The same update on one device, on eight, and in two processes; and what the devices tell each other meanwhile.

The process that runs the tests may have one device. What needs more is run by this file as a script, in processes of
its own, which answer with JSON.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from functools import cache, partial
from itertools import pairwise
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

import efisher_teach as ef
from efisher_teach.network.update import Report

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]
BOTH = ("examples", "parameters")
MESHES = {
    "examples": ((8,), BOTH[:1]),
    "parameters": ((8,), BOTH[1:]),
    "two by four": ((2, 4), BOTH),
    "four by two": ((4, 2), BOTH),
}
# A damping that float32 sees well, and steps that are large beside the rounding of θ: what differs is a mistake.
SETTINGS = {"damping": 0.1, "budget": 1.0}
TOLERANCE = 1e-5
WIDTHS = (64, 96, 80, 32)


# Models with their data, the same numbers in every process.


def network(params, x, y):
    for W, b in params[:-1]:
        x = jnp.tanh(W @ x + b)
    W, b = params[-1]
    return -jax.nn.log_softmax(W @ x + b)[y]


def sequence(params, x, y):
    """A convolution, a scan, a head."""
    kernel, U, W = params
    h = lax.conv_general_dilated(x[None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))[0]
    state, _ = lax.scan(lambda state, h: (jnp.tanh(U @ state + h), None), jnp.zeros(len(U)), jnp.tanh(h))
    return -jax.nn.log_softmax(W @ state)[y]


def normal(rng, *shape):
    return (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)


def dense(widths, n):
    rng = np.random.default_rng(0)
    params = [(normal(rng, b, a), normal(rng, b)) for a, b in pairwise(widths)]
    return network, params, 3 * normal(rng, n, widths[0]), rng.integers(0, widths[-1], n)


@cache
def case(name):
    """loss_fn, params, x, y."""
    if name == "even":  # eight devices can share every array
        return dense(WIDTHS, 16)
    if name == "odd":  # axes of 12 and 5, and 12 examples: not eight, and of 5 not four
        return dense((8, 12, 5), 12)
    rng = np.random.default_rng(1)
    params = [normal(rng, 3, 4, 8), normal(rng, 8, 8), normal(rng, 3, 8)]
    return sequence, params, 3 * normal(rng, 8, 6, 4), rng.integers(0, 3, 8)


@cache
def alone(name):
    """What one device makes of it."""
    loss_fn, params, x, y = case(name)
    return ef.make_update(loss_fn, **SETTINGS)(params, x, y)


def flat(params):
    return np.asarray(ravel_pytree(jax.device_get(params))[0], float)


def step_error(new, one, old):
    """How far the step is from the one of one device, relative to its length."""
    return float(np.linalg.norm(flat(new) - flat(one)) / np.linalg.norm(flat(one) - flat(old)))


def plain(report):
    return {name: float(value) for name, value in report._asdict().items()}


def same_report(report, one):
    """Every field; what is next to nothing, such as a residual, only as that."""
    assert set(report) == set(one) == set(Report._fields)
    for name, value in report.items():
        assert value == pytest.approx(one[name], rel=TOLERANCE, abs=1e-6), name


def collectives(hlo):
    """What the devices send each other in a compiled program: the kind, and how many numbers, of every array."""
    pattern = r"= (.*?) (all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute)(?:-start)?\("
    return [
        (kind, prod(map(int, filter(None, shape.split(",")))))
        for results, kind in re.findall(pattern, hlo)
        for shape in re.findall(r"\w\[([\d,]*)\]", results)
    ]


# What other processes do.


CASES = {
    **{f"even, {mesh}": ("even", mesh) for mesh in MESHES},
    "odd, parameters": ("odd", "parameters"),
    "odd, two by four": ("odd", "two by four"),
    "sequence, examples": ("sequence", "examples"),
    "sequence, two by four": ("sequence", "two by four"),
}
PLACED = ("automatic axes", "explicit axes", "explicit axes in a context", "two steps")


def on_eight():
    """Everything that needs eight devices, in one process."""
    loss_fn, params, x, y = case("odd")
    other = ef.make_update(loss_fn, **SETTINGS | {"damping": 0.2})(params, x, y)
    return {
        "devices": jax.device_count(),
        "cases": {name: shared(model, *MESHES[mesh]) for name, (model, mesh) in CASES.items()},
        "flops": flops(jax.jit(ef.make_update(network, **SETTINGS)).lower(*case("even")[1:]).compile()),
        "other damping": step_error(other[0], alone("odd")[0], params),
        "placed": {how: attempt(partial(placed, how)) for how in PLACED},
        "twelve on eight": attempt(
            lambda: str(
                ef.make_update(loss_fn, mesh=jax.make_mesh(*MESHES["examples"]), **SETTINGS)(params, x, y)
            )
        ),
        "gram of G": collectives(gram_of_gradients()),
        "for CUDA": exported(),
    }


def attempt(function):
    try:
        return function()
    except Exception as error:  # for the test to show
        return f"{type(error).__name__}: {error}"


def flops(compiled):
    """Of each device."""
    return compiled.cost_analysis()["flops"]


def shared(model, shape, axes):
    """One update on a mesh, beside the same on one device."""
    loss_fn, params, x, y = case(model)
    update, told = ef.make_update(loss_fn, mesh=jax.make_mesh(shape, axes), **SETTINGS), {}
    if model == "even":  # inside another jit, to read what was compiled
        update = jax.jit(update).lower(params, x, y).compile()
        told = {
            "collectives": collectives(update.as_text()),
            "flops": flops(update),
            "rows": update.input_shardings[0][1].shard_shape(x.shape)[0],
        }
    new, report = update(params, x, y)
    return told | {
        "error": step_error(new, alone(model)[0], params),
        "report": plain(report),
        "one": plain(alone(model)[1]),
        "leaves": [
            {
                "shape": leaf.shape,
                "held": [shard.data.size for shard in leaf.addressable_shards],
                "parts": len({str(shard.index) for shard in leaf.addressable_shards}),
            }
            for leaf in jax.tree.leaves(new)
        ],
    }


def placed(how):
    """An update on arrays that are on the mesh already, as a training loop has them."""
    loss_fn, params, x, y = case("odd")
    kind = AxisType.Explicit if how.startswith("explicit") else AxisType.Auto
    mesh = jax.make_mesh((2, 4), BOTH, axis_types=(kind, kind))
    update = ef.make_update(loss_fn, mesh=mesh, **SETTINGS)
    there = jax.device_put(params, NamedSharding(mesh, Spec()))
    x, y = jax.device_put((x, y), NamedSharding(mesh, Spec("examples")))
    if how == "two steps":
        first, _ = alone("odd")
        second, _ = ef.make_update(loss_fn, **SETTINGS)(first, *case("odd")[2:])
        return step_error(update(update(there, x, y)[0], x, y)[0], second, first)
    if how.endswith("in a context"):
        with jax.set_mesh(mesh):
            return step_error(update(there, x, y)[0], alone("odd")[0], params)
    return step_error(update(there, x, y)[0], alone("odd")[0], params)


def gram_of_gradients():
    """The program that the update avoids: K from G."""
    loss_fn, params, x, y = case("even")
    mesh = Mesh(np.array(jax.devices()), BOTH[:1])
    rows = NamedSharding(mesh, Spec("examples"))

    def program(params, x, y):
        x, y = (lax.with_sharding_constraint(array, rows) for array in (x, y))
        return ef.gram(ef.per_example_gradients(loss_fn, params, x, y))

    return jax.jit(program).lower(params, x, y).compile().as_text()


def exported():
    loss_fn, params, x, y = case("even")
    update = ef.make_update(loss_fn, mesh=jax.make_mesh((2, 4), BOTH), **SETTINGS)
    program = jax.export.export(jax.jit(update), platforms=["cuda"])(params, x, y)
    return [*program.platforms, program.nr_devices]


def one_of_two(port, rank):
    """A process that has two devices, half of the examples, and a partner."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(rank), initialization_timeout=60)
    loss_fn, params, x, y = case("even")
    half = len(y) // 2
    mine = slice(int(rank) * half, (int(rank) + 1) * half)
    answer = {"processes": jax.process_count(), "devices": jax.device_count(), "meshes": {}}
    for shape in ((4,), (2, 2)):
        mesh = Mesh(np.array(jax.devices()).reshape(shape), BOTH[: len(shape)])
        rows = NamedSharding(mesh, Spec("examples"))
        x_all, y_all = (jax.make_array_from_process_local_data(rows, array[mine]) for array in (x, y))
        new, report = ef.make_update(loss_fn, mesh=mesh, **SETTINGS)(params, x_all, y_all)
        new = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, Spec()))(
            new
        )  # all of it everywhere
        answer["meshes"][str(shape)] = {
            "examples": sum(
                {str(shard.index): len(shard.data) for shard in y_all.addressable_shards}.values()
            ),
            "params": flat(jax.tree.map(lambda leaf: leaf.addressable_data(0), new)).tolist(),
            "report": plain(report),
        }
    jax.distributed.shutdown()
    return answer


def start(tmp_path, devices, name, *arguments):
    """This file as a script, on CPU devices; its answer will be in a file."""
    answer = tmp_path / "-".join((name, *arguments))
    settings = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        # Little is computed here and much compiled: optimised less, the whole takes a third less time.
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0",
    }
    command = [sys.executable, __file__, str(answer), name, *arguments]
    return answer, subprocess.Popen(
        command, cwd=ROOT, env=os.environ | settings, stderr=subprocess.PIPE, text=True
    )


def finish(*started, seconds=180):
    """The answers of all, or what the first that fails says; none is left behind."""
    end = time.monotonic() + seconds
    try:
        for _, process in started:
            _, said = process.communicate(timeout=max(1, end - time.monotonic()))
            assert process.returncode == 0, said
        return [json.loads(answer.read_text()) for answer, _ in started]
    finally:
        for _, process in started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return finish(start(tmp_path_factory.mktemp("devices"), 8, "on_eight"))[0]


# On eight devices.


@pytest.mark.parametrize("name", CASES)
def test_a_mesh_changes_nothing(eight, name):
    assert eight["devices"] == 8
    found = eight["cases"][name]
    assert found["error"] <= TOLERANCE
    same_report(found["report"], found["one"])
    assert found["report"]["finite"] == 1


def test_another_step_would_be_seen(eight):
    assert eight["other damping"] > 100 * TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_spread_over_their_devices(eight, name):
    shape, axes = MESHES[CASES[name][1]]
    parts = dict(zip(axes, shape, strict=True)).get("parameters", 1)
    for leaf in eight["cases"][name]["leaves"]:
        share = parts if any(size % parts == 0 for size in leaf["shape"]) else 1
        assert leaf["parts"] == share
        assert leaf["held"] == [prod(leaf["shape"]) // share] * 8


@pytest.mark.parametrize("mesh", MESHES)
def test_examples_and_work_are_spread(eight, mesh):
    """Of what one device computes, eight compute less than a quarter each."""
    found, (shape, axes) = eight["cases"][f"even, {mesh}"], MESHES[mesh]
    assert found["rows"] == 16 // dict(zip(axes, shape, strict=True)).get("examples", 1)
    assert 0 < found["flops"] < eight["flops"] / 4


def traffic_needed():
    """n²(2·layers + 2) + n·Σ(a + b) + p.

    The two factors of each layer's part of K, their sum and its transpose; the inputs and errors of each layer; Gᵀα.
    """
    _, params, _, y = case("even")
    n, layers = len(y), list(pairwise(WIDTHS))
    return n**2 * (2 * len(layers) + 2) + n * sum(a + b for a, b in layers) + flat(params).size


@pytest.mark.parametrize("mesh", MESHES)
def test_gradients_of_single_examples_never_travel(eight, mesh):
    sent = eight["cases"][f"even, {mesh}"]["collectives"]
    n = len(case("even")[-1])
    dense_gradients = {n * a * b for a, b in pairwise(WIDTHS)}
    assert sent
    assert not {numbers for kind, numbers in sent if kind != "all-reduce"} & dense_gradients
    # Twice: an input may be needed where its rows and where its columns are. All of G would be ten times as much.
    assert sum(numbers for _, numbers in sent) <= 2 * traffic_needed()


def test_gradients_of_single_examples_would_be_seen(eight):
    """K from G on the same devices sends all of G."""
    _, params, _, y = case("even")
    G = len(y) * flat(params).size
    assert ["all-gather", G] in eight["gram of G"]
    assert 4 * traffic_needed() < G


@pytest.mark.parametrize("how", PLACED)
def test_arrays_may_be_on_the_mesh_already(eight, how):
    """JAX's default for the axes of a mesh has changed: "automatic" once, "explicit" now."""
    error = eight["placed"][how]
    assert isinstance(error, float), error
    assert error <= TOLERANCE


def test_examples_that_cannot_be_shared_are_refused(eight):
    expected = r"ValueError: `x and y` must be a multiple of 8 examples, the devices of the mesh; got 12\."
    assert re.match(expected, str(eight["twelve on eight"]))


@pytest.mark.parametrize("axes", [("batch",), ("examples", "model")])
def test_axes_without_a_meaning_are_refused(axes):
    mesh = jax.make_mesh((1,) * len(axes), axes)
    with pytest.raises(
        ValueError, match=r"^`mesh` must be a jax.sharding.Mesh with axes named .*; got axes \('"
    ):
        ef.make_update(network, mesh=mesh, **SETTINGS)


def test_eight_cuda_devices_can_be_compiled_for(eight):
    assert eight["for CUDA"] == ["cuda", 8]


# In two processes.


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    folder = tmp_path_factory.mktemp("processes")
    return finish(*(start(folder, 2, "one_of_two", port, rank) for rank in "01"))


@pytest.mark.parametrize("mesh", ["(4,)", "(2, 2)"])
def test_two_processes_make_the_same_step(two, mesh):
    """Each knows half of the examples."""
    one, report = alone("even")
    old = flat(case("even")[1])
    for process in two:
        assert (process["processes"], process["devices"]) == (2, 4)
        found = process["meshes"][mesh]
        assert found["examples"] == len(case("even")[-1]) // 2
        assert step_error(np.array(found["params"]), one, old) <= TOLERANCE
        same_report(found["report"], plain(report))
    assert two[0]["meshes"][mesh]["params"] == two[1]["meshes"][mesh]["params"]


if __name__ == "__main__":
    path, task, *rest = sys.argv[1:]
    Path(path).write_text(json.dumps({"on_eight": on_eight, "one_of_two": one_of_two}[task](*rest)))
