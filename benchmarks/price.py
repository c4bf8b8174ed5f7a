"""The price of one exact step, in plain gradients of its framework: `make bench`, `make bench-peers`, `make bench-gpu`.

The step is `make_update` in float32 at ε = 1e-3, on tanh networks with softmax cross-entropy, as a user runs it: a
fresh process, no environment variable. The gradient is `jax.jit(jax.value_and_grad(mean loss))` on the same batch.
*Price* is the ratio of their times. Each network has a process of its own, in each framework, and the processes take
turns; so do the ways inside (turns.py). To see u through the rounding of θ + Δ, it is read from a step with η = 2²⁰.
NetKet gives its kernel, and the solve is ours. A small transformer is measured beside them, in JAX alone.

With `--gpu` the networks are larger, and each is measured with its own products in TF32 and in full precision.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from turns import DAMPING, Way, about, count, in_turns, make_case, reference, store

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "images" / "price.png"
BUDGET = 0.01
FAR = 2.0**20  # η of the step that the direction is read from
OURS, MEASURED, KEPT, NETKET = "our step", "our step, measured", "vmap(grad)", "on the fly"
NETS = ((64, 32, 10), (784, 256, 10), (784, 1024, 1024, 10))
CASES = [(net, n) for net in NETS for n in (256, 1024)]
GROWTH = [((784, width, 10), n) for n in (64, 256, 1024) for width in (16, 64, 256, 1024)]
LARGE = [(NETS[-1], 256), (NETS[-1], 1024), ((4096,) * 13, 512), ((8192,) * 25, 2048)]
SEQUENCES = 64  # examples of the transformer
SMALL = 5_000_000  # parameters: up to here there is a float64 reference
PROCESSES = 3  # of each framework for each network
SLOW = 10.0  # seconds: a way whose first call takes longer is measured in one of them


def name_of(widths):
    """Widths joined by hyphens, or how many layers of which width; without widths the transformer."""
    if not widths:
        return "transformer, T = 64"
    return f"{len(widths) - 1} × {widths[0]}" if len(widths) > 8 else "-".join(map(str, widths))


def tanh_network(case):
    """Its loss of one example, its parameters and its data."""
    import jax
    import jax.numpy as jnp

    def loss_fn(params, x, y):
        *hidden, (W, b) = params
        for V, c in hidden:
            x = jnp.tanh(x @ V + c)
        z = x @ W + b
        # log_softmax(z)[y] takes XLA 15 times as long, forwards, at n = 1024
        return jax.nn.logsumexp(z) - z[y]

    return loss_fn, *jax.tree.map(jnp.asarray, (case.layers, case.x, case.y.astype(np.int32)))


def transformer(n, length=64, width=128, heads=4, blocks=2, tokens=64):
    """Mean cross-entropy of the next token of one sequence; pre-norm blocks, of dense leaves used `length` times."""
    import jax
    import jax.numpy as jnp

    rng = np.random.RandomState(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    shapes = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}  # in widths
    params = {
        "tokens": normal(tokens, width),
        "places": normal(length, width),
        "blocks": [
            {name: normal(a * width, b * width) for name, (a, b) in shapes.items()} for _ in range(blocks)
        ],
        "read": normal(width, tokens),
    }

    def norm(h):
        h = h - h.mean(axis=1, keepdims=True)
        return h * jax.lax.rsqrt(jnp.mean(h**2, axis=1, keepdims=True) + 1e-5)

    def loss_fn(params, x, y):
        h = params["tokens"][x] + params["places"]
        for block in params["blocks"]:
            q, k, v = jnp.split((norm(h) @ block["qkv"]).reshape(length, heads, -1), 3, axis=2)
            scores = jnp.einsum("ihd,jhd->hij", q, k) * q.shape[-1] ** -0.5
            weights = jax.nn.softmax(jnp.where(jnp.tri(length, dtype=bool), scores, -jnp.inf))
            h = h + jnp.einsum("hij,jhd->ihd", weights, v).reshape(length, width) @ block["out"]
            h = h + jax.nn.gelu(norm(h) @ block["up"]) @ block["down"]
        z = norm(h) @ params["read"]
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])

    text = jnp.asarray(rng.randint(tokens, size=(n, length + 1)), jnp.int32)
    return loss_fn, params, text[:, :-1], text[:, 1:]


def ways(loss_fn, params, x, y):
    """Every way in JAX, to be made when it is wanted."""
    import jax
    import jax.numpy as jnp

    n = len(y)

    def moved(params, u, rate):
        leaves, tree = jax.tree.flatten(params)
        pairs = zip(leaves, u, strict=True)
        return tree.unflatten([leaf - rate * v.reshape(leaf.shape) for leaf, v in pairs])

    def coefficients(K):
        """(K + εI)⁻¹1/n."""
        factor = jax.scipy.linalg.cho_factor(K + DAMPING * jnp.eye(n, dtype=K.dtype), lower=True)
        return jax.scipy.linalg.cho_solve(factor, jnp.full(n, 1 / n, K.dtype))

    @jax.jit
    def kept(params, x, y, rate):
        """From the gradients of every example, a leaf at a time."""
        G = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0, 0))(params, x, y)
        rows = [leaf.reshape(n, -1) for leaf in jax.tree.leaves(G)]
        alpha = coefficients(sum(leaf @ leaf.T for leaf in rows) / n)
        return moved(params, [alpha @ leaf for leaf in rows], rate)

    def read(after):
        """The direction, from where a far step led."""
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True)
        return [(np.asarray(old, float) - np.asarray(new, float)) / FAR for new, old in pairs]

    def gradient():
        mean = jax.jit(jax.value_and_grad(lambda p, x, y: jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(p, x, y))))
        return Way(lambda: jax.block_until_ready(mean(params, x, y)))

    def ours(**options):
        import efisher_teach as ef

        update = ef.make_update(loss_fn, damping=DAMPING, budget=BUDGET, **options)
        far = ef.make_update(loss_fn, damping=DAMPING, learning_rate=FAR, measure=False)
        return Way(lambda: jax.block_until_ready(update(params, x, y)), lambda _: read(far(params, x, y)[0]))

    def netket():
        """The kernel as its `use_ntk=True, on_the_fly=True` makes it, with our solve."""
        from netket.jax import _ntk

        losses = lambda p, x: jax.vmap(loss_fn, (None, 0, 0))(p, *x)  # noqa: E731
        kernel = _ntk.empirical_ntk_by_jacobian(f=losses, trace_axes=(), vmap_axes=0)

        @jax.jit
        def step(params, x, y, rate):
            alpha = coefficients(kernel((x, y), None, params) / n)
            (u,) = jax.vjp(lambda p: losses(p, (x, y)), params)[1](alpha)
            return moved(params, jax.tree.leaves(u), rate)

        return Way(lambda: jax.block_until_ready(step(params, x, y, FAR)), read)

    return {
        "gradient": gradient,
        NETKET: netket,
        MEASURED: ours,
        OURS: lambda: ours(measure=False),
        KEPT: lambda: Way(lambda: jax.block_until_ready(kept(params, x, y, FAR)), read),
    }


def child(framework, widths, n, rounds, only=None, gpu=False, precision=None):
    """Measure one network in one framework, and print what was found."""
    case = make_case(widths, n) if widths else None
    small = bool(widths) and count(widths) <= SMALL
    if framework == "PyTorch":
        import price_torch

        every, about = price_torch.ways(case), price_torch.versions()
    else:
        import jax

        if gpu and jax.default_backend() != "gpu":
            raise SystemExit("JAX has no GPU here. With one: pip install -e '.[cuda]'.")
        jax.config.update("jax_default_matmul_precision", precision)
        every = ways(*(tanh_network(case) if widths else transformer(n)))
        about = {"JAX": jax.__version__, "device": jax.devices()[0].device_kind}
    chosen = {key: make for key, make in every.items() if key in (only or every)}
    for other in (MEASURED, OURS, KEPT) if framework == "NetKet" else (NETKET,):
        chosen.pop(other, None)
    if widths and not small:
        chosen.pop(KEPT, None)
    found = in_turns(chosen, reference(case) if small and not only else None, rounds)
    if gpu:
        about["peak"] = jax.devices()[0].memory_stats().get("peak_bytes_in_use")
    print(json.dumps({"about": about, "methods": found}))


def run(python, *task, **more):
    """A child process; its answer."""
    command = [python, __file__, "--child", json.dumps([task, more])]
    settings = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # of a GPU's memory
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=settings)
    return json.loads(done.stdout.splitlines()[-1])


def measure(pythons, widths, n, rounds, *, processes=PROCESSES, only=None, **more):
    """One network: what was found of every way in every framework, and about the frameworks."""
    methods, about, quick = {}, {}, dict.fromkeys(pythons, only)
    for _ in range(processes):
        for framework, python in pythons.items():
            answer = run(python, framework, widths, n, rounds, only=quick[framework], **more)
            quick[framework] = [way for way, of in answer["methods"].items() if of.get("first", SLOW) < SLOW]
            about |= answer["about"]
            for way, found in answer["methods"].items():
                known = methods.setdefault(f"{framework}: {way}", found)
                if known is not found and "times" in found and "times" in known:
                    known["times"] += found["times"]
                    known["memory"] = min(known["memory"], found["memory"])
    for found in methods.values():
        if times := found.pop("times", None):
            found |= {"calls": len(times), "min": min(times), "median": float(np.median(times))}
    print(f"{name_of(widths)}, n = {n}: " + "; ".join(priced(methods)), file=sys.stderr, flush=True)
    return methods, about


def priced(methods):
    """The price of every way, in words."""
    for key, found in methods.items():
        if "problem" in found:
            yield f"{key}: {found['problem']}"
        elif not key.endswith(": gradient") and "min" in methods[key.partition(":")[0] + ": gradient"]:
            yield f"{key} {found['min'] / methods[key.partition(':')[0] + ': gradient']['min']:.3g}"


def growth(pythons, rounds):
    """Price and memory of 784-width-10 against p and against n."""
    for widths, n in GROWTH:
        methods, _ = measure(pythons, widths, n, rounds, processes=1, only=["gradient", OURS, KEPT])
        gradient, ours, kept = (methods[f"JAX: {way}"] for way in ("gradient", OURS, KEPT))
        point = {"width": widths[1], "p": count(widths), "n": n, "gradient_min": gradient["min"]}
        point |= {"ours_min": ours["min"], "price_min": ours["min"] / gradient["min"]}
        if 256 in (n, widths[1]):
            point |= {"memory": ours["memory"], "kept_memory": kept["memory"]}
        yield point


def draw(points, path):
    """Two panels: the price against p, and the memory against p."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from efisher_teach.figures.ink import CONSTRAINT, DATA, EMPIRICAL_FISHER, STYLE

    with mpl.rc_context(STYLE | {"font.size": 13}):
        figure = Figure(figsize=(10.5, 4.4), layout="constrained")
        price, memory = figure.subplots(1, 2)
        for n, color in zip((64, 256, 1024), (DATA, EMPIRICAL_FISHER, "#003A5C"), strict=True):
            curve = sorted((point["p"], point["price_min"]) for point in points if point["n"] == n)
            price.plot(*zip(*curve, strict=True), color=color, marker="o", ms=5, label=f"n = {n}")
        price.axhline(1, color=CONSTRAINT, lw=1, ls=(0, (4, 3)), label="one gradient")
        price.set(title="Price of an exact step, in plain gradients", ylim=(0.7, None))
        ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50) if tick < price.get_ylim()[1]]
        shown = [point for point in points if point["n"] == 256]
        kept = "kept_memory", CONSTRAINT, "every gradient (vmap of grad)"
        for of, color, label in (("memory", EMPIRICAL_FISHER, "ours"), kept):
            curve = sorted((point["p"], point[of] / 2**20) for point in shown if point.get(of))
            memory.plot(*zip(*curve, strict=True), color=color, marker="o", ms=5, label=label)
        memory.set(title="Extra memory at n = 256, MiB")
        for panel in (price, memory):
            panel.set(xscale="log", yscale="log", xlabel="parameters p")
            panel.grid(alpha=0.25, lw=0.6)
            panel.legend(labelcolor="linecolor", frameon=False)
        price.set_yticks(ticks, [str(tick) for tick in ticks])
        price.yaxis.set_minor_formatter("")
        memory.yaxis.set_major_formatter("{x:g}")
        figure.savefig(path, dpi=200, facecolor="white")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one network, few rounds; stores nothing")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has PyTorch and the packages")
    parser.add_argument("--gpu", action="store_true", help="the large networks, on a GPU")
    parser.add_argument("--draw", action="store_true", help="measure nothing: draw the stored results")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task, more = options.child
        return child(*task, **more)
    stored = HERE / "results" / ("price_gpu.json" if options.gpu else "price.json")
    if options.draw:
        return draw(json.loads(stored.read_text())["growth"], PICTURE)
    pythons = {"JAX": sys.executable}
    if options.peers:
        pythons |= {"PyTorch": options.peers, "NetKet": options.peers}
    results = about() | {"damping": DAMPING, "cases": []}
    rounds = 1 if options.quick else 6
    for widths, n in (LARGE if options.gpu else CASES)[: 1 if options.quick else None]:
        case = {"net": name_of(widths), "p": count(widths), "n": n}
        if options.gpu:
            for name, precision in (("default", None), ("highest", "highest")):
                more = {"gpu": True, "precision": precision}
                methods, results["versions"] = measure(pythons, widths, n, rounds, processes=1, **more)
                case[name] = {key.removeprefix("JAX: "): found for key, found in methods.items()}
                case[name]["peak"] = results["versions"].pop("peak")
        else:
            case["methods"], results["versions"] = measure(pythons, widths, n, rounds)
        results["cases"].append(case)
    if not options.gpu and not options.quick:
        methods, _ = measure({"JAX": sys.executable}, (), SEQUENCES, rounds)
        results["cases"].append({"net": name_of(()), "n": SEQUENCES, "methods": methods})
        results["growth"] = list(growth({"JAX": sys.executable}, rounds))
    results["load"].append(os.getloadavg()[0])
    if not options.quick:
        store(results, stored)


if __name__ == "__main__":
    main()
