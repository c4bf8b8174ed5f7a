"""What one exact step costs in PyTorch, by packages and by hand; and what both sides of the comparison share.

The shared part (networks, data, the float64 reference, the measuring) needs only NumPy, so that it runs here and there.
The peers have an environment of their own:

    python -m venv .venv-price-peers
    .venv-price-peers/bin/pip install torch==2.13.0 nngeometry==0.4 backpack-for-pytorch==1.7.1 asdfghjkl==0.1a5
    .venv-price-peers/bin/python benchmarks/price_peers.py          # alone: prints JSON
    python benchmarks/price.py --peers                              # in turns with ours

(`asdfghjkl` is ASDL as packaged; its module is called `asdl`.) Every method gets the best form that we know of: no
matrix of gradients is concatenated, NNGeometry gets its batch whole and not example by example. Each makes the
direction u = (C + εI)⁻¹g and the update θ ← θ - ηu in place, here with η = 0, so that every
call has the same work to do.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DAMPING = 1e-3
NETS = {"64-32-10": (64, 32, 10), "784-256-10": (784, 256, 10), "784-1024-1024-10": (784, 1024, 1024, 10)}
EXAMPLES = (256, 1024)
LONG = 60  # seconds: a call that takes longer is made once
PATIENCE = 180  # seconds that a probe may take, with everything


class Case(NamedTuple):
    """A tanh network with softmax cross-entropy, and its data, in float32."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    """W (inputs, outputs) and b (outputs,) of each layer."""
    x: np.ndarray
    y: np.ndarray


class Method(NamedTuple):
    """One way to the step."""

    call: Callable[[], Any]
    """Does it all, and returns when it is done."""
    direction: Callable[[Any], list[np.ndarray]] | None = None
    """From what `call` returned to u: W and b of each layer, as in a `Case`. None if it is no step."""
    compiled: Callable[[], Any] | None = None
    """Its executable by XLA."""


def make_case(widths: tuple[int, ...], n: int) -> Case:
    """The same numbers in every process."""
    rng = np.random.RandomState(0)  # not default_rng: this stream is frozen for all versions of NumPy
    layers = [
        (
            (rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32),
            (0.1 * rng.standard_normal(b)).astype(np.float32),
        )
        for a, b in pairwise(widths)
    ]
    x = rng.standard_normal((n, widths[0])).astype(np.float32)
    return Case(layers, x, rng.randint(widths[-1], size=n))


def count(widths: tuple[int, ...]) -> int:
    """p."""
    return sum((a + 1) * b for a, b in pairwise(widths))


def reference(case: Case, numbers: int = 2**26) -> list[np.ndarray]:
    """U = Gᵀ(GGᵀ/n + εI)⁻¹1/n in float64, with backpropagation by hand and dense G, some of its columns at a time."""
    n, (layers, x, y) = len(case.y), case
    layers = [(W.astype(float), b.astype(float)) for W, b in layers]
    inputs = [x.astype(float)]
    for W, b in layers[:-1]:
        inputs.append(np.tanh(inputs[-1] @ W + b))
    z = inputs[-1] @ layers[-1][0] + layers[-1][1]
    z = np.exp(z - z.max(axis=1, keepdims=True))
    errors = [z / z.sum(axis=1, keepdims=True) - np.eye(z.shape[1])[y]]
    for (W, _), h in zip(layers[:0:-1], inputs[:0:-1], strict=True):
        errors.insert(0, (errors[0] @ W.T) * (1 - h**2))
    K = np.zeros((n, n))
    for A, D in zip(inputs, errors, strict=True):
        width = max(1, numbers // A.size)
        for start in range(0, D.shape[1], width):
            G = (A[:, :, None] * D[:, None, start : start + width]).reshape(n, -1)
            K += G @ G.T
        K += D @ D.T
    weights = np.linalg.solve(K / n + DAMPING * np.eye(n), np.full(n, 1 / n))
    return [
        leaf
        for A, D in zip(inputs, errors, strict=True)
        for leaf in (A.T @ (weights[:, None] * D), weights @ D)
    ]


# Measuring, inside the process that is measured.


def resident(field: str) -> int:
    """VmRSS, the resident memory now, or VmHWM, its peak: bytes, from Linux."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def growth_of_memory(call: Callable[[], Any]) -> tuple[Any, float, int]:
    """What `call` returns, its seconds, and how far the resident memory rose above its level before, at its peak."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, or it would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS"), time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    return result, seconds, max(0, resident("VmHWM") - before)


def probe(method: Method, truth: list[np.ndarray] | None) -> dict[str, Any]:
    """The first call, with all that it compiles; what a second one takes; how right it is."""
    result, first, memory = growth_of_memory(method.call)
    found = {"first": first, "seconds": first, "memory": memory, "warm": False}
    if method.direction and truth:
        u = method.direction(result)
        apart = sum(
            np.sum((np.asarray(one, float) - other) ** 2) for one, other in zip(u, truth, strict=True)
        )
        found["error"] = float(np.sqrt(apart / sum(np.sum(leaf**2) for leaf in truth)))
        del u
    del result
    if first < LONG:
        _, found["seconds"], found["memory"] = growth_of_memory(method.call)
        found["warm"] = True
    if method.compiled:
        found["temporary"] = method.compiled().memory_analysis().temp_size_in_bytes
    return found


def sample(methods: dict[str, Method], calls: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of so many calls of each, in an order by chance, each kind after one that does not count."""
    found = {}
    for name in random.sample(sorted(calls), len(calls)):
        times = []
        for _ in range(calls[name] + (calls[name] > 1)):
            start = time.perf_counter()
            methods[name].call()
            times.append(time.perf_counter() - start)
        found[name] = times[-calls[name] :]
    return found


def serve(make_methods: Callable[[Case], dict[str, Callable[[], Method]]], about: dict[str, Any]) -> None:
    """Answer the questions of a `Worker`, a line each, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    resource.setrlimit(resource.RLIMIT_DATA, (int(os.environ["PRICE_MEMORY"]),) * 2)
    key, makers, made = None, {}, {}
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            if ask["do"] == "about":
                answer = about
            else:
                if key != (key := (ask["widths"], ask["n"])):
                    makers, made = make_methods(make_case(tuple(ask["widths"]), ask["n"])), {}
                if ask["do"] == "names":
                    answer = list(makers)
                elif ask["do"] == "probe":
                    truth = None
                    if ask["truth"]:
                        with np.load(ask["truth"]) as file:
                            truth = [file[name] for name in file.files]
                    answer = probe(makers[ask["method"]](), truth)
                else:
                    for name in ask["calls"]:
                        if name not in made:
                            made[name] = makers[name]()
                            made[name].call()  # compiles
                    answer = sample(made, ask["calls"])
        except Exception as error:  # reported as what became of the method
            answer = {
                "problem": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            }
        print(json.dumps(answer), file=answers, flush=True)


# Measuring, from outside.


class Worker:
    """A process that measures, in one framework."""

    def __init__(self, command: list[str], *, exact_memory: bool = False):
        available = int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
        settings = os.environ | {"PRICE_MEMORY": str(int(0.8 * available))}
        if exact_memory:  # what is freed goes back at once, and the resident memory is what is in use
            settings |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        self.process = subprocess.Popen(
            [*command, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=settings,
        )

    def ask(
        self, do: str, widths: tuple[int, ...] = (), n: int = 0, patience: float = 3600, **more: Any
    ) -> Any:
        """One question. Without an answer in time, or at all, the answer is {"problem": why}."""
        question = {"do": do, "widths": widths, "n": n, **more}
        try:
            self.process.stdin.write((json.dumps(question) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"problem": self._last_words()}
        if not select.select([self.process.stdout], [], [], patience)[0]:
            self.process.kill()
            return {"problem": f"no end after {patience:.0f} s"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"problem": self._last_words()}

    def _last_words(self):
        code = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {code}: {lines[-1][:160] if lines else 'nothing said'}"

    def close(self) -> None:
        """No more questions."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def probe_once(
    command: list[str], widths: tuple[int, ...], n: int, method: str, truth: str | None
) -> dict[str, Any]:
    """In a fresh process."""
    worker = Worker(command, exact_memory=True)
    answer = worker.ask("probe", widths, n, patience=PATIENCE, method=method, truth=truth)
    worker.close()
    return answer


def run_case(
    commands: dict[str, list[str]],
    widths: tuple[int, ...],
    n: int,
    *,
    rounds: int,
    budget: float,
    skip: Callable[[str], bool] = lambda name: False,
    memory: Callable[[str], bool] = lambda name: True,
    truth: bool = True,
) -> dict[str, dict[str, Any]]:
    """Every method of every framework on one network and one n: {"framework: method": what was measured}.

    First each in a process of its own: first call, memory, error. Then in rounds: in each round the frameworks take
    turns, and in a turn the methods, so that all see the same machine. No method gets more than `budget` seconds.
    """
    found, path = {}, None
    with tempfile.TemporaryDirectory() as folder:
        workers = {framework: Worker(command) for framework, command in commands.items()}
        if truth:
            path = str(Path(folder) / "truth.npz")
            np.savez(path, *reference(make_case(widths, n)))
        for framework, command in commands.items():
            for method in workers[framework].ask("names", widths, n):
                if skip(method):
                    continue
                key = f"{framework}: {method}"
                found[key] = (
                    probe_once(command, widths, n, method, path) if memory(method) else {"seconds": 0.0}
                )
                found[key]["times"] = []
        for turn in range(rounds + 1):  # the first warms up
            for framework, worker in workers.items():
                calls = {}
                for key, about in found.items():
                    of, method = key.split(": ", 1)
                    spent, seconds = sum(about["times"]), about.get("seconds", LONG)
                    if (
                        of == framework
                        and "problem" not in about
                        and seconds < LONG
                        and (not turn or spent < budget)
                    ):
                        calls[method] = max(1, min(20, int(0.2 / max(seconds, 1e-4)))) if turn else 1
                for method, times in worker.ask("time", widths, n, calls=calls).items():
                    about = found[f"{framework}: {method}"]
                    if turn:
                        about["times"] += times
                    about["seconds"] = min(times)
                time.sleep(0.01)  # threads that wait for more work by spinning give up
        for worker in workers.values():
            worker.close()
    for about in found.values():
        times = about.pop("times")
        if "problem" not in about:
            about["calls"] = max(1, len(times))
            times = times or [about["seconds"]]
            about["min"], about["median"] = float(min(times)), float(np.median(times))
        about.pop("seconds", None)
    return found


# The peers.


def torch_methods(case: Case) -> dict[str, Callable[[], Method]]:
    """Every way in PyTorch, to be made when it is wanted."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(os.cpu_count())
    x, y, n = torch.tensor(case.x), torch.tensor(case.y), len(case.y)

    def model():
        layers = []
        for W, b in case.layers:
            layer = torch.nn.Linear(*W.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(W.T))
                layer.bias.copy_(torch.tensor(b))
            layers += [layer, torch.nn.Tanh()]
        return torch.nn.Sequential(*layers[:-1])

    def losses(net, x, y):
        return functional.cross_entropy(net(x), y, reduction="none")

    def weights(K):
        """α = (K + εI)⁻¹1/n of nK, which is overwritten."""
        K.div_(n).diagonal().add_(DAMPING)
        return torch.cholesky_solve(torch.full((n, 1), 1 / n), torch.linalg.cholesky(K))[:, 0]

    def moved(parameters, direction):
        with torch.no_grad():
            for parameter, u in zip(parameters, direction, strict=True):
                parameter.add_(u, alpha=-0.0)
        return direction

    def direction(result):
        return [u.detach().T.numpy() for u in result]  # W is (outputs, inputs) here

    def dual(parameters, G):
        """From the gradients of every example, a leaf at a time."""
        with torch.no_grad():
            rows = [leaf.flatten(1) for leaf in G]
            alpha = weights(sum(leaf @ leaf.T for leaf in rows))
            return moved(
                parameters, [(alpha @ leaf).view_as(of) for leaf, of in zip(rows, parameters, strict=True)]
            )

    def gradient():
        net = model()

        def call():
            net.zero_grad(set_to_none=True)
            functional.cross_entropy(net(x), y).backward()

        return Method(call)

    def by_hand():
        """Forwards, backwards and K written out: what can be had for this one architecture."""
        net = model()
        parameters = list(net.parameters())

        @torch.no_grad()
        def call():
            inputs = [x]
            for W, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
                inputs.append(torch.addmm(b, inputs[-1], W.T).tanh_())
            D = torch.softmax(torch.addmm(parameters[-1], inputs[-1], parameters[-2].T), 1)
            D[torch.arange(n), y] -= 1
            errors = [D]
            for W, h in zip(parameters[-2:0:-2], inputs[:0:-1], strict=True):
                errors.insert(0, 0)
                errors[0] = torch.ops.aten.tanh_backward(errors[1] @ W, h)
            K = sum((A @ A.T).add_(1).mul_(D @ D.T) for A, D in zip(inputs, errors, strict=True))
            alpha = weights(K)[:, None]
            found = []
            for A, D in zip(inputs, errors, strict=True):
                D = D * alpha
                found += [D.T @ A, D.sum(dim=0)]
            return moved(parameters, found)

        return Method(call, direction)

    def asdl():
        package, net = importlib.import_module("asdl"), model()
        config = package.SmwEmpNaturalGradientConfig(data_size=n, damping=DAMPING)
        maker = package.SmwEmpNaturalGradientMaker(net, config)

        def call():
            net.zero_grad(set_to_none=True)
            maker.setup_loss_call(functional.cross_entropy, maker.setup_model_call(net, x), y)
            maker.forward_and_backward()
            return moved(net.parameters(), [each.grad for each in net.parameters()])

        return Method(call, direction)

    def nngeometry():
        package, net = importlib.import_module("nngeometry"), model()

        class Whole(torch.utils.data.TensorDataset):
            def __getitems__(self, places):
                return self[places]

        loader = torch.utils.data.DataLoader(Whole(x, y), batch_size=n, collate_fn=lambda batch: batch)

        def call():
            K = package.GramMatrix(net, loader, function=lambda x, y: losses(net, x, y)).to_torch().detach()
            alpha = weights(K.reshape(n, n))
            net.zero_grad(set_to_none=True)
            losses(net, x, y).backward(alpha)
            return moved(net.parameters(), [each.grad for each in net.parameters()])

        return Method(call, direction)

    def backpack():
        package, extensions = (
            importlib.import_module("backpack"),
            importlib.import_module("backpack.extensions"),
        )
        net, loss = package.extend(model()), package.extend(torch.nn.CrossEntropyLoss(reduction="sum"))

        def call():
            net.zero_grad(set_to_none=True)
            with package.backpack(extensions.BatchGrad()):
                loss(net(x), y).backward()
            found = dual(list(net.parameters()), [each.grad_batch for each in net.parameters()])
            for each in net.parameters():
                del each.grad_batch
            return found

        return Method(call, direction)

    def func():
        net = model()
        names, parameters = zip(*net.named_parameters(), strict=True)
        parameters = [each.detach() for each in parameters]

        def loss(parameters, x, y):
            logits = torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), (x[None],))
            return functional.cross_entropy(logits, y[None])

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
        return Method(lambda: dual(parameters, gradients(parameters, x, y)), direction)

    return {
        "gradient": gradient,
        "by hand, for this network": by_hand,
        "ASDL": asdl,
        "NNGeometry": nngeometry,
        "BackPACK": backpack,
        "vmap(grad)": func,
    }


def versions() -> dict[str, Any]:
    """What is measured here, and by how many threads."""
    names = ("torch", "nngeometry", "backpack-for-pytorch", "asdfghjkl")
    return {"versions": {name: version(name) for name in names}, "threads": os.cpu_count()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that all works")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(torch_methods, versions())
        return
    commands = {"PyTorch": [sys.executable, __file__]}
    settings = {"rounds": 2, "budget": 2} if options.quick else {"rounds": 15, "budget": 20}
    cases = []
    for name, widths in NETS.items():
        for n in EXAMPLES[: 1 if options.quick else None]:
            methods = run_case(commands, widths, n, **settings)
            cases.append({"net": name, "p": count(widths), "n": n, "methods": methods})
            print(f"{name}, n = {n}", file=sys.stderr)
    print(json.dumps({**versions(), "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
