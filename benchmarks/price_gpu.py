"""What one exact step costs on a GPU, in plain gradients: `make bench-gpu`, where JAX has one.

The same loss, ε and update as in price.py, in float32: once as JAX sets out, where NVIDIA GPUs round products to TF32,
and once in full precision. Small networks have a float64 reference and, beside ours, the step with G kept; the large
ones have the peak of the device's memory. Each case has a process of its own. Each call is timed until its arrays are
there; gradient and step take turns. *Error* is ‖u - u*‖/‖u*‖ of the direction, as in price.py.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from price import BUDGET, FAR, KEPT, OURS, jax_methods, loss_fn
from price_peers import DAMPING, NETS, Case, count, make_case, reference

import efisher_teach as ef

RESULTS = Path(__file__).parent / "results" / "price_gpu.json"
CASES = [  # name, widths, n
    ("784-1024-1024-10", NETS["784-1024-1024-10"], 256),
    ("784-1024-1024-10", NETS["784-1024-1024-10"], 1024),
    ("12 × 4096", (4096,) * 13, 512),
    ("24 × 8192", (8192,) * 25, 2048),
]
SMALL = 5_000_000  # parameters
ROUNDS = 20


def network(widths, n):
    """Parameters, inputs and labels on the device."""
    if count(widths) <= SMALL:
        case = make_case(widths, n)
        return jax.tree.map(jnp.asarray, (case.layers, case.x, case.y.astype(np.int32)))
    *keys, of_x, of_y = jax.random.split(jax.random.key(0), len(widths) + 1)
    layers = [
        (jax.random.normal(key, (a, b)) / np.sqrt(a), jnp.zeros(b))
        for key, (a, b) in zip(keys, pairwise(widths), strict=True)
    ]
    return (
        layers,
        jax.random.normal(of_x, (n, widths[0])),
        jax.random.randint(of_y, (n,), 0, widths[-1]),
    )


def seconds(call):
    """Of one call, until everything is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(name, widths, n):
    """One network at one n, in both precisions."""
    found = {"net": name, "p": count(widths), "n": n}
    for precision in ("default", "highest"):
        with jax.default_matmul_precision(precision):
            found[precision] = times_and_error(widths, n)
    return found


def times_and_error(widths, n):
    """In the precision that is set."""
    params, x, y = network(widths, n)
    small = count(widths) <= SMALL
    mean = jax.value_and_grad(lambda params, x, y: jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(params, x, y)))
    gradient, update = jax.jit(mean), ef.make_update(loss_fn, damping=DAMPING, budget=BUDGET, measure=False)
    calls = {"gradient": lambda: gradient(params, x, y), OURS: lambda: update(params, x, y)}
    if small:
        calls[KEPT] = jax_methods(Case(params, x, np.asarray(y)))[KEPT]().call
    first = {kind: seconds(call) for kind, call in calls.items()}
    times = {kind: [] for kind in calls}
    for _ in range(ROUNDS):
        for kind, call in calls.items():
            times[kind].append(seconds(call))
    about = {
        kind: {"first": first[kind], "min": min(of), "median": float(np.median(of))}
        for kind, of in times.items()
    }
    if small:
        truth = reference(make_case(widths, n))
        far = ef.make_update(loss_fn, damping=DAMPING, learning_rate=FAR, measure=False)
        pairs = zip(jax.tree.leaves(far(params, x, y)[0]), jax.tree.leaves(params), strict=True)
        u = [(np.asarray(old, float) - np.asarray(new, float)) / FAR for new, old in pairs]
        apart = sum(np.sum((one - other) ** 2) for one, other in zip(u, truth, strict=True))
        about["error"] = float(np.sqrt(apart / sum(np.sum(leaf**2) for leaf in truth)))
    else:
        about["residual"] = float(update(params, x, y)[1].residual)
        about["peak"] = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return about


def table(results):
    """All in Markdown."""
    lines = [
        "| network | p | n | products | gradient, ms | step, ms | price | G kept, ms | error | peak, GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in results["cases"]:
        for precision in ("default", "highest"):
            about = case[precision]
            gradient, step = about["gradient"]["min"], about[OURS]["min"]
            kept = f"{1e3 * about[KEPT]['min']:.3g}" if KEPT in about else ""
            error = f"{about['error']:.0e}" if "error" in about else ""
            peak = f"{about['peak'] / 2**30:.1f}" if "peak" in about else ""
            lines.append(
                f"| {case['net']} | {case['p']:.2g} | {case['n']} | {precision} | {1e3 * gradient:.3g} "
                f"| {1e3 * step:.3g} | {step / gradient:.2f} | {kept} | {error} | {peak} |"
            )
    return "\n".join(
        [*lines, f"\n{results['date']}; {results['device']}; JAX {results['jax']}; float32, ε = {DAMPING:g}"]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the first case only, on any device, to see that all works; stores nothing",
    )
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        if jax.default_backend() != "gpu" and not options.quick:
            raise SystemExit(
                "JAX has no GPU here. With one: pip install -e '.[cuda]'. To try the script: --quick"
            )
        about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        print(json.dumps(about | {"case": measure(*CASES[options.case])}))
        return
    results = {"date": datetime.date.today().isoformat(), "cases": []}
    for i in range(1 if options.quick else len(CASES)):
        command = [sys.executable, __file__, f"--case={i}", *(["--quick"] if options.quick else [])]
        settings = os.environ | {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false"
        }  # or the peak would be what JAX reserves
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=settings).stdout
        about = json.loads(said.splitlines()[-1])
        results["cases"].append(about.pop("case"))
        results |= about
        print(table(results), flush=True)
        if not options.quick:  # also where the next one is interrupted
            options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
