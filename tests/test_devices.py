"""The same update on one device, on eight, and in two processes; and what the devices tell each other meanwhile.

The process that runs the tests may have one device. What needs more is a test of another name, run by pytest on this
file in processes of its own.
"""

import os
import re
import socket
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from oracles import flat, relative

import efisher_teach as ef

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]
BOTH = ("examples", "parameters")
MESHES = {"examples": ((8,), BOTH[:1]), "parameters": ((8,), BOTH[1:])}
MESHES |= {"two by four": ((2, 4), BOTH), "four by two": ((4, 2), BOTH)}
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


@cache
def case(name):
    """loss_fn, params, x, y: eight devices can share all of "even"; "odd" has axes of 12 and 5, and 12 examples."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)  # noqa: E731
    if name == "sequence":
        params = [normal(3, 4, 8), normal(8, 8), normal(3, 8)]
        return sequence, params, 3 * normal(8, 6, 4), rng.integers(0, 3, 8)
    widths, n = (WIDTHS, 16) if name == "even" else ((8, 12, 5), 12)
    params = [(normal(b, a), normal(b)) for a, b in pairwise(widths)]
    return network, params, 3 * normal(n, widths[0]), rng.integers(0, widths[-1], n)


def update_of(name, mesh=None, **options):
    return ef.make_update(case(name)[0], mesh=mesh, **SETTINGS | options)


@cache
def alone(name):
    """The step and the report of one device."""
    return update_of(name)(*case(name)[1:])


def step_error(new, one, old):
    """The distance of the step from that of one device, relative to its length."""
    return relative(flat(new) - flat(old), flat(one) - flat(old))


def same(found, name):
    """The step and every field of the report; what is next to nothing, such as a residual, only as that."""
    assert step_error(found[0], alone(name)[0], case(name)[1]) <= TOLERANCE
    np.testing.assert_allclose(found[1][:8], alone(name)[1][:8], rtol=TOLERANCE, atol=1e-6)


def collectives(compiled):
    """The arrays that devices send each other in a compiled program: the kind and the number of entries of each."""
    pattern = r"= (.*?) (all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute)(?:-start)?\("
    return [
        (kind, prod(map(int, filter(None, shape.split(",")))))
        for results, kind in re.findall(pattern, compiled.as_text())
        for shape in re.findall(r"\w\[([\d,]*)\]", results)
    ]


# On eight devices.

CASES = [*(("even", mesh) for mesh in MESHES), ("odd", "parameters"), ("odd", "two by four")]
CASES += [("sequence", "examples"), ("sequence", "two by four")]


@pytest.mark.parametrize(("name", "mesh"), CASES)
def on_eight_a_mesh_changes_nothing(name, mesh):
    """The parameters are spread over the devices of their axis, where these can share them evenly."""
    assert jax.device_count() == 8
    mesh = jax.make_mesh(*MESHES[mesh])
    found = update_of(name, mesh)(*case(name)[1:])
    same(found, name)
    for leaf in jax.tree.leaves(found[0]):
        parts = mesh.shape.get("parameters", 1)
        share = parts if any(size % parts == 0 for size in leaf.shape) else 1
        assert len({str(shard.index) for shard in leaf.addressable_shards}) == share
        assert [shard.data.size for shard in leaf.addressable_shards] == [leaf.size // share] * 8


@pytest.mark.parametrize("mesh", MESHES)
def on_eight_work_is_spread_and_gradients_of_single_examples_never_travel(mesh):
    """n²(2·layers + 2) + n·Σ(a + b) + p numbers are needed.

    The two factors of each layer's part of K, their sum and its transpose; the inputs and errors of each layer; Gᵀα.
    """
    _, params, x, y = case("even")
    n, layers = len(y), list(pairwise(WIDTHS))
    mesh = jax.make_mesh(*MESHES[mesh])
    # Inside another jit, to read what was compiled.
    one, shared = (jax.jit(update_of("even", on)).lower(params, x, y).compile() for on in (None, mesh))
    assert shared.input_shardings[0][1].shard_shape(x.shape)[0] == 16 // mesh.shape.get("examples", 1)
    # Of what one device computes, eight compute less than a quarter each.
    assert 0 < shared.cost_analysis()["flops"] < one.cost_analysis()["flops"] / 4
    sent, dense_gradients = collectives(shared), {n * a * b for a, b in layers}
    assert sent
    assert not {numbers for kind, numbers in sent if kind != "all-reduce"} & dense_gradients
    # Twice: an input may be needed where its rows and where its columns are. All of G would be ten times as much.
    needed = n**2 * (2 * len(layers) + 2) + n * sum(a + b for a, b in layers) + flat(params).size
    assert sum(numbers for _, numbers in sent) <= 2 * needed < n * flat(params).size / 2
    program = jax.export.export(jax.jit(update_of("even", mesh)), platforms=["cuda"])(params, x, y)
    assert program.nr_devices == 8


def on_eight_what_they_look_for_would_be_seen():
    """Another step, or all of G: K from G on the same devices sends it."""
    other, _ = update_of("odd", damping=0.2)(*case("odd")[1:])
    assert step_error(other, alone("odd")[0], case("odd")[1]) > 100 * TOLERANCE
    loss_fn, *data = case("even")
    rows = NamedSharding(Mesh(np.array(jax.devices()), BOTH[:1]), Spec("examples"))

    def program(params, x, y):
        x, y = (lax.with_sharding_constraint(array, rows) for array in (x, y))
        return ef.gram(ef.per_example_gradients(loss_fn, params, x, y))

    G = len(data[-1]) * flat(data[0]).size
    assert ("all-gather", G) in collectives(jax.jit(program).lower(*data).compile())


@pytest.mark.parametrize(("kind", "in_context"), [("Auto", False), ("Explicit", False), ("Explicit", True)])
def on_eight_arrays_may_be_on_the_mesh_already(kind, in_context):
    """As a training loop has them. JAX's default for the axes of a mesh has changed: "Auto" once, "Explicit" now."""
    _, params, x, y = case("odd")
    mesh = jax.make_mesh((2, 4), BOTH, axis_types=(getattr(AxisType, kind),) * 2)
    update, (first, _) = update_of("odd", mesh), alone("odd")
    there = jax.device_put(params, NamedSharding(mesh, Spec()))
    x_there, y_there = jax.device_put((x, y), NamedSharding(mesh, Spec("examples")))
    with jax.set_mesh(mesh) if in_context else nullcontext():
        found = update(there, x_there, y_there)
        again, _ = update(found[0], x_there, y_there)
    same(found, "odd")
    assert step_error(again, update_of("odd")(first, x, y)[0], first) <= TOLERANCE


# In two processes.


def one_of_two_makes_the_same_step():
    """A process that has two devices, half of the examples, and a partner."""
    rank = int(os.environ["RANK_OF_TWO"])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{os.environ['PORT_OF_TWO']}", 2, rank, initialization_timeout=60)
    assert (jax.process_count(), jax.device_count()) == (2, 4)
    _, params, x, y = case("even")
    for shape in ((4,), (2, 2)):
        mesh = Mesh(np.array(jax.devices()).reshape(shape), BOTH[: len(shape)])
        rows, everywhere = NamedSharding(mesh, Spec("examples")), NamedSharding(mesh, Spec())
        mine = (np.split(array, 2)[rank] for array in (x, y))
        x_all, y_all = (jax.make_array_from_process_local_data(rows, array) for array in mine)
        new, report = update_of("even", mesh)(params, x_all, y_all)
        new = jax.jit(lambda tree: tree, out_shardings=everywhere)(new)
        same((jax.tree.map(lambda leaf: leaf.addressable_data(0), new), report), "even")
    jax.distributed.shutdown()


def run(names, devices, *environments, seconds=600):
    """Tests of this file by other names, on CPU devices, in a process for each environment; none is left behind."""
    # Little is computed here and much compiled: optimised less, the whole takes a third less time.
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": flags}
    settings = os.environ | settings | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", f"python_functions={names}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    started = [subprocess.Popen([*command, __file__], env=settings | each, **pipes) for each in environments]
    try:
        said = [process.communicate(timeout=seconds)[0] for process in started]
        assert not any(process.returncode for process in started), "".join(said)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_on_eight_devices():
    run("on_eight_*", 8, {})


def test_in_two_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run("one_of_two_*", 2, *({"RANK_OF_TWO": rank, "PORT_OF_TWO": port} for rank in "01"))
