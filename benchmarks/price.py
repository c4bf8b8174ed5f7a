"""What one exact step costs, in plain gradients of its framework: `python benchmarks/price.py [--quick] [--peers]`.

The step is `make_update` in float32 at ε = 1e-3, on tanh networks with softmax cross-entropy; the gradient is
`jax.jit(jax.value_and_grad(mean loss))` on the same batch. *Price* is the ratio of their times. In each round the
methods take turns in an order by chance; with `--peers` PyTorch's have a process of their own, which takes its turn in
every round while ours waits. Each call is timed until all its arrays are there; a first round warms up.

*First call* is in a fresh process, with everything that is compiled, but without the imports and the data. *Memory* is
how far the resident memory of that process rises above its level before, at its peak, during one more call: results
included, compiling excluded (VmHWM, reset before; freed memory goes back to the system at once). *Temporary* is what
XLA plans for intermediate results. *Error* is ‖u - u*‖/‖u*‖ of the direction, with u* from a float64 dual in NumPy: by
backpropagation by hand and dense G. To see u through the rounding of θ + Δ, it is read from a step with η = 2²⁰.
"""

import argparse
import datetime
import json
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from price_peers import DAMPING, EXAMPLES, NETS, Method, Worker, count, probe_once, run_case, serve

import efisher_teach as ef

ROOT = Path(__file__).parents[1]
RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "price.json", ROOT / "docs" / "images" / "price.png"
PEERS = ROOT / ".venv-price-peers" / "bin" / "python"
# One thread for LAPACK: OpenBLAS's idle ones would spin beside XLA's, and cost up to a third of a step.
COMMAND = ["env", "OPENBLAS_NUM_THREADS=1", sys.executable, __file__]
BUDGET = 0.01
FAR = 2.0**20  # η of the step that the direction is read from
PRIMAL = 5000  # the most parameters that a p × p matrix is made for
GROWTH_N, GROWTH_WIDTH = (64, 256, 1024), (16, 64, 256, 1024)  # of 784-width-10
OURS, MEASURED, KEPT = "our step", "our step, measured", "vmap(grad)"


def loss_fn(params, x, y):
    """Softmax cross-entropy of one example."""
    *hidden, (W, b) = params
    for V, c in hidden:
        x = jnp.tanh(x @ V + c)
    z = x @ W + b
    return jax.nn.logsumexp(z) - z[y]  # log_softmax(z)[y] takes XLA 15 times as long, forwards, at n = 1024


def jax_methods(case):
    """Every way in JAX, to be made when it is wanted."""
    params, x, y = jax.tree.map(jnp.asarray, (case.layers, case.x, case.y.astype(np.int32)))
    n = len(y)

    def rows(params):
        gradients = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0, 0))(params, x, y)
        return [leaf.reshape(n, -1) for leaf in jax.tree.leaves(gradients)]

    def moved(params, direction, rate):
        leaves, tree = jax.tree.flatten(params)
        return tree.unflatten(
            [leaf - rate * u.reshape(leaf.shape) for leaf, u in zip(leaves, direction, strict=True)]
        )

    def solve(A, b):
        shifted = A + DAMPING * jnp.eye(len(A), dtype=A.dtype)
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(shifted, lower=True), b)

    def kept(params, x, y, rate):
        G = rows(params)
        alpha = solve(sum(leaf @ leaf.T for leaf in G) / n, jnp.full(n, 1 / n))
        return moved(params, [alpha @ leaf for leaf in G], rate)

    def primal(params, x, y, rate):
        G = jnp.concatenate(rows(params), axis=1)
        u = solve(G.T @ G / n, jnp.mean(G, axis=0))
        return moved(
            params, jnp.split(u, np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])[:-1]), rate
        )

    def method(make, direction=None):
        """`make` gives the function and its arguments; nothing is compiled before the first call."""
        function, arguments = make()
        compiled = lambda: jax.jit(function).lower(*arguments).compile()  # noqa: E731
        return Method(lambda: jax.block_until_ready(function(*arguments)), direction, compiled)

    def read(after):
        """The direction, from where a far step led."""
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True)
        return [(np.asarray(old, float) - np.asarray(new, float)) / FAR for new, old in pairs]

    def ours(measure):
        far = ef.make_update(loss_fn, damping=DAMPING, learning_rate=FAR, measure=False)
        return lambda: method(
            lambda: (
                ef.make_update(loss_fn, damping=DAMPING, budget=BUDGET, measure=measure),
                (params, x, y),
            ),
            lambda _: read(far(params, x, y)[0]),
        )

    def gradient():
        mean = lambda params, x, y: jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(params, x, y))  # noqa: E731
        return jax.jit(jax.value_and_grad(mean)), (params, x, y)

    def by_matrix(step):
        return lambda: method(lambda: (jax.jit(step), (params, x, y, FAR)), read)

    methods = {
        "gradient": lambda: method(gradient),
        OURS: ours(measure=False),
        MEASURED: ours(measure=True),
        KEPT: by_matrix(kept),
    }
    if sum(leaf.size for leaf in jax.tree.leaves(params)) <= PRIMAL:
        methods["primal, Cholesky"] = by_matrix(primal)
    return methods


def growth(settings, say):
    """Price and memory of 784-width-10 against p and against n."""
    points = []
    for n in GROWTH_N:
        for width in GROWTH_WIDTH if n in (64, 256, 1024) else (256,):
            widths = (784, width, 10)
            say(f"growth: 784-{width}-10, n = {n}")
            found = run_case(
                {"JAX": COMMAND},
                widths,
                n,
                **settings,
                skip=lambda name: name not in ("gradient", OURS),
                memory=lambda name, fixed=(n, width): name == OURS and 256 in fixed,
                truth=False,
            )
            gradient, ours = found["JAX: gradient"], found[f"JAX: {OURS}"]
            point = {"width": width, "p": count(widths), "n": n}
            if "problem" in gradient or "problem" in ours:
                raise RuntimeError(f"{widths}, n = {n}: {gradient.get('problem') or ours['problem']}")
            point |= {f"price_{of}": ours[of] / gradient[of] for of in ("min", "median")}
            point |= {"gradient_min": gradient["min"], "ours_min": ours["min"]}
            if "memory" in ours:
                point["memory"] = ours["memory"]
                point["kept_memory"] = probe_once(COMMAND, widths, n, KEPT, None).get("memory")
            points.append(point)
    return points


def draw(points, path):
    """Two panels: the price against p, and the memory against p."""
    from efisher_teach.figures.scene import CONSTRAINT, DATA, EMPIRICAL_FISHER, STYLE, mpl

    with mpl.rc_context(STYLE | {"font.size": 13, "axes.titlesize": 14, "axes.labelsize": 13}):
        mpl.rcParams |= {"xtick.labelsize": 12, "ytick.labelsize": 12}
        figure = Figure(figsize=(10.5, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        shades = dict(zip((64, 256, 1024), (DATA, EMPIRICAL_FISHER, "#003A5C"), strict=True))
        for n, colour in shades.items():
            curve = sorted((point["p"], point["price_min"]) for point in points if point["n"] == n)
            _curve(left, curve, colour, f"n = {n}", at=0)  # where the curves are apart
        left.axhline(1, color=CONSTRAINT, linewidth=1, linestyle=(0, (4, 3)))
        left.annotate("one gradient", (1, 1), xycoords=("axes fraction", "data"), xytext=(-2, -5),
                      textcoords="offset points", ha="right", va="top", color=CONSTRAINT)  # fmt: skip
        left.set_title("Price of an exact step, in plain gradients")
        left.set_ylim(0.7, 1.3 * max(point["price_min"] for point in points))  # room for a label
        ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50) if tick < left.get_ylim()[1]]
        for what, colour, label in (
            ("memory", EMPIRICAL_FISHER, "ours"),
            ("kept_memory", CONSTRAINT, "every gradient\n(vmap of grad)"),
        ):
            curve = sorted(
                (point["p"], point[what] / 2**20) for point in points if point["n"] == 256 and point.get(what)
            )
            _curve(right, curve, colour, label)
        right.set_title("Extra memory at n = 256, MiB")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("parameters p")
            axes.margins(x=0.06)
            low, high = axes.get_xlim()
            axes.set_xlim(low, high * (4 if axes is right else 1.2))  # room for the labels
            axes.grid(alpha=0.25, linewidth=0.6)
        left.set_yticks(ticks, [str(tick) for tick in ticks])
        left.yaxis.set_minor_formatter("")
        right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, facecolor="white")


def _curve(axes, curve, colour, label, at=-1):
    """A line with its name beside its last point, or above its first one."""
    axes.plot(*zip(*curve, strict=True), color=colour, marker="o", markersize=5)
    place = {"xytext": (9, 0), "va": "center"} if at else {"xytext": (8, 4), "va": "bottom"}
    axes.annotate(label, curve[at], textcoords="offset points", color=colour, **place)


def tables(results):
    """All in Markdown."""
    lines = []
    for case in results["cases"]:
        gradients = {
            key.split(":")[0]: about for key, about in case["methods"].items() if key.endswith(": gradient")
        }
        lines += [
            f"\n**{case['net']}, p = {case['p']:,}, n = {case['n']}**\n",
            "| | price: minima (medians) | ms: minimum (median) | calls | first call, s "
            "| memory, MiB | temporary, MiB | error |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for key, about in case["methods"].items():
            if "problem" in about:
                lines.append(f"| {key} | {about['problem']} | | | | | | |")
                continue
            against = gradients[key.split(":")[0]]
            price, typical = (about[of] / against[of] for of in ("min", "median"))
            temporary = f"{about['temporary'] / 2**20:.1f}" if "temporary" in about else ""
            error = f"{about['error']:.0e}" if "error" in about else ""
            once = " once" if about["calls"] == 1 else ""
            lines.append(
                f"| {key} | {price:.3g} ({typical:.3g}){once} | {1e3 * about['min']:.3g} ({1e3 * about['median']:.3g}) "
                f"| {about['calls']} | {about['first']:.2f} | {about['memory'] / 2**20:.1f} | {temporary} | {error} |"
            )
    for fixed, title in (("n", "growth with p: 784-width-10"), ("width", "growth with n: 784-256-10")):
        points = [point for point in results["growth"] if fixed == "n" or point["width"] == 256]
        if not points:
            continue
        lines += [
            f"\n**{title}**\n",
            "| p | n | price: minima (medians) | gradient, ms | step, ms | memory, MiB | vmap(grad), MiB |",
            "|---|---|---|---|---|---|---|",
        ]
        for point in points:
            memory, kept = (
                f"{point[of] / 2**20:.1f}" if point.get(of) is not None else ""
                for of in ("memory", "kept_memory")
            )
            lines.append(
                f"| {point['p']:,} | {point['n']} | {point['price_min']:.2f} ({point['price_median']:.2f}) "
                f"| {1e3 * point['gradient_min']:.2f} | {1e3 * point['ours_min']:.2f} | {memory} | {kept} |"
            )
    names = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    before, after = results["load"]
    lines.append(
        f"\n{results['date']}; {results['device']}, {results['cores']} cores, load {before:.1f} before and "
        f"{after:.1f} after; float32, ε = {DAMPING:g}; {names}. {results['turns']}"
    )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to see that all works; stores nothing"
    )
    parser.add_argument(
        "--peers",
        nargs="?",
        const=str(PEERS),
        metavar="PYTHON | JSON",
        help="PyTorch's too: a Python that has them, to take turns with ours (.venv-price-peers); "
        "or what price_peers.py printed, measured on its own",
    )
    parser.add_argument(
        "--net", choices=NETS, action="append", help="only this network, and no growth; stores nothing"
    )
    parser.add_argument("--n", type=int, action="append", help="only this n; stores nothing")
    parser.add_argument(
        "--out", type=Path, help="where the results go; if all is measured, benchmarks/results/price.json"
    )
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the figure goes")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: table and figure from the stored results"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(jax_methods, {})
        return
    partial = options.quick or options.net or options.n
    out = options.out or (None if partial else RESULTS)
    if options.draw:
        results = json.loads((options.out or RESULTS).read_text())
    else:
        results = measure(options)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=1) + "\n")
    print(tables(results))
    if results["growth"] and (out or options.draw):
        draw(results["growth"], options.picture)


def measure(options):
    """The whole run."""
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    load = os.getloadavg()[0]
    commands, theirs, turns = {"JAX": COMMAND}, None, "One framework."
    versions = {"JAX": jax.__version__, "jaxlib": jax.lib.__version__}
    if options.peers and options.peers.endswith(".json"):
        theirs = json.loads(Path(options.peers).read_text())
        versions |= theirs["versions"]
        turns = "PyTorch's were measured in another run."
    elif options.peers:
        commands["PyTorch"] = [options.peers, str(Path(__file__).with_name("price_peers.py"))]
        worker = Worker(commands["PyTorch"])
        about = worker.ask("about")
        worker.close()
        if "problem" in about:
            raise RuntimeError(f"{options.peers}: {about['problem']}. How it is made: see price_peers.py.")
        versions |= about["versions"]
        turns = f"JAX and PyTorch ({about['threads']} threads) took turns in one run."
    settings = {"rounds": 2, "budget": 2} if options.quick else {"rounds": 15, "budget": 4}
    cases = []
    for net in options.net or NETS:
        for n in options.n or EXAMPLES[: 1 if options.quick else None]:
            say(f"{net}, n = {n}")
            methods = run_case(commands, NETS[net], n, **settings)
            for case in theirs["cases"] if theirs else ():
                if (case["net"], case["n"]) == (net, n):
                    methods |= case["methods"]
            cases.append({"net": net, "p": count(NETS[net]), "n": n, "methods": methods})
    points = (
        growth({"rounds": settings["rounds"], "budget": settings["budget"] / 4}, say)
        if not options.net
        else []
    )
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].platform.upper()} ({processor[1] if processor else 'unknown'})",
        "cores": os.cpu_count(),
        "load": [load, os.getloadavg()[0]],
        "versions": versions,
        "turns": turns,
        "damping": DAMPING,
        "dtype": "float32",
        "quick": options.quick,
        "cases": cases,
        "growth": points,
    }


if __name__ == "__main__":
    main()
