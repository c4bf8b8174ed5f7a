"""Write the tables of docs/ that come from the code or from what was measured: `make tables`.

A page marks a table's place by two comments, `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function of this
module. What was measured is read from benchmarks/results/.
"""

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np

import efisher_teach as ef

DOCS = Path(__file__).parent
PRICE, GPU, CLASSROOM, SLIDERS = (
    json.loads((DOCS.parent / "benchmarks" / "results" / f"{name}.json").read_text())
    for name in ("price", "price_gpu", "classroom", "sliders")
)
WAYS = {
    "ours": "JAX: our step",
    "ours, and the loss after it": "JAX: our step, measured",
    "JAX, G kept": "JAX: vmap(grad)",
    "PyTorch, by hand for this network": "PyTorch: by hand, for this network",
    "ASDL": "PyTorch: ASDL",
    "NNGeometry": "PyTorch: NNGeometry",
    "TorchJD": "PyTorch: TorchJD",
    "BackPACK": "PyTorch: BackPACK",
    "torch.func": "PyTorch: vmap(grad)",
    "NetKet": "NetKet: on the fly",
}
MIB, GIB = 2**20, 2**30


def table(head, rows):
    """A table of Markdown: its head, and rows of cells that are texts or whole numbers."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def names():
    """Every public name, its module, and the first line of its docstring."""
    rooms = ("core", "network", "figures", "lessons", "browser")
    rows = []
    for name in ef.__all__:
        value = getattr(ef, name)
        module = value.__name__ if isinstance(value, ModuleType) else value.__module__
        first = " ".join((value.__doc__ or "").partition("\n\n")[0].split())
        rows.append([f"`ef.{name}`", f"`{module.removeprefix('efisher_teach.')}`", first.replace("|", "∣")])
    rows.sort(key=lambda row: rooms.index(row[1].strip("`").partition(".")[0]))
    return table(["name", "room", "in one line"], rows)


def prices():
    """The price of each way to the step, in gradients of its framework: ratios of minima."""
    cases = [case for case in PRICE["cases"] if case["net"] != "64-32-10" or case["n"] == 256]

    def price(case, key):
        methods = case["methods"]
        if "min" not in methods.get(key, {}):
            return methods.get(key, {}).get("problem", "").partition(":")[0]
        ratio = methods[key]["min"] / methods[key.partition(":")[0] + ": gradient"]["min"]
        return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"

    head = ["price in gradients", *(f"{case['net']}, n = {case['n']}" for case in cases)]
    return table(head, [[way, *(price(case, key) for case in cases)] for way, key in WAYS.items()])


def largest():
    """Time, memory and error of each way on the largest network."""
    cases = [case for case in PRICE["cases"] if case["net"] == "784-1024-1024-10"]
    head = [cases[0]["net"]]
    for case in cases:
        head += [f"ms, n = {case['n']}", "memory, MiB", "error"]
    rows = []
    for way, key in WAYS.items():
        rows.append([way])
        for found in (case["methods"].get(key, {}) for case in cases):
            if "min" in found:
                memory, error = f"{found['memory'] / MIB:,.0f}", f"{found['error']:.0e}"
                rows[-1] += [f"{1e3 * found['min']:,.0f}", memory, error]
            else:
                rows[-1] += [found.get("problem", "").partition(":")[0], "", ""]
    return table(head, rows)


def growth():
    """Price and memory by p and n, beside the cost model."""
    rows = []
    for point in PRICE["growth"]:
        width, p, n = point["width"], point["p"], point["n"]
        if "kept_memory" in point:
            model = 1 + n / 3 * (784 + 2 * width + 10) / (784 * width + width * 10) + n**2 / (18 * p)
            memory = [f"{point['memory'] / MIB:.1f}", f"{point['kept_memory'] / MIB:.0f}"]
            rows.append([width, f"{p:,}", n, f"{point['price_min']:.2f}", f"{model:.2f}", *memory])
    head = ["784-width-10", "p", "n", "price, measured", "by the model", "memory, MiB", "with G kept, MiB"]
    return table(head, rows)


def gpu():
    """Prices on a GPU, with the model's products in TF32 and in full precision."""
    rows = []
    for case in GPU["cases"]:
        for precision, name in (("default", "TF32"), ("highest", "full")):
            found = case[precision]
            gradient, step = found["gradient"]["min"], found["our step"]["min"]
            first = [case["net"], f"{case['p']:.1e}".replace("e+0", "e"), case["n"]]
            kept = f"{1e3 * found['vmap(grad)']['min']:.3g}" if "vmap(grad)" in found else ""
            error = f"{found['error']:.0e}".replace("e-0", "e-") if "error" in found else ""
            peak = f"{found['peak'] / GIB:.1f}" if "peak" in found else ""
            times = [f"{1e3 * gradient:.3g}", f"{1e3 * step:.3g}", f"{step / gradient:.2f}"]
            rows.append([*(first if name == "TF32" else [""] * 3), name, *times, kept, error, peak])
    head = ["network", "p", "n", "model's products", "gradient, ms", "step, ms", "price", "G kept, ms"]
    return table([*head, "error", "peak of memory, GiB"], rows)


MOVES = {
    "nothing": "nothing",
    "dragging an axis": "axis",
    "moving a kernel control": "kernel control",
    "`interact`, the same figure": "interact",
}


def cpu(found):
    """CPU seconds of kernel and server."""
    return f"{found['kernel']:.1f}", f"{found['server']:.1f}"


def learner():
    """The cost of one learner at a real page, a minute."""
    phases = [(said, CLASSROOM["one"]["phases"][kind]) for said, kind in MOVES.items()]
    rows = [[said, *cpu(found), f"{found['bytes'] / 1000:.0f}"] for said, found in phases]
    return table(["a minute of", "kernel, CPU s", "server, CPU s", "kB, both ways"], rows)


def ten():
    """The cost of each of ten learners, a minute, and their wait."""
    phases = [(said, CLASSROOM["ten"]["phases"][kind]) for said, kind in MOVES.items()]
    rows = [[said, *cpu(found), f"{found['settled']:.1f}"] for said, found in phases]
    wait = "all pages agree with their kernels after, s"
    return table(["a minute of", "kernel, CPU s each", "server, CPU s each", wait], rows)


def notebooks():
    """Memory and CPU seconds of every notebook, run as stored."""
    ran, of = CLASSROOM["notebooks"], ("resident", "peak", "cpu")
    rows = [[name, *(f"{found[each]:.0f}" for each in of)] for name, found in ran["each"].items()]
    return table([f"notebook, run as stored ({ran['device']})", "kernel, MiB", "at its peak", "CPU, s"], rows)


MOVED = {
    "an axis, by mouse": "mouse",
    "a bare slider and a rectangle, by mouse": "bare, mouse",
    "an axis, by keys": "keys",
    "a bare slider and a rectangle, by keys": "bare, keys",
    "a control, the background stays": "kernel",
    "a control, the background is drawn anew": "kernel, new background",
    "a figure under `interact`": "`interact`",
}


def sliders():
    """The time until a figure answers: the median over all axes or controls, and the worst of them."""
    rows = []
    for said, by in MOVED.items():
        if found := [row for row in SLIDERS["rows"] if row["by"] == by]:
            p50, worst = np.median([row["p50"] for row in found]), max(row["p95"] for row in found)
            rows.append([said, len(found), f"{p50:.0f}", f"{worst:.0f}"])
    return table([f"what is moved ({SLIDERS['device']})", "how many", "p50, ms", "the worst p95, ms"], rows)


def filled(page: str) -> str:
    """A page with its tables made anew."""
    parts = re.split(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", page, flags=re.DOTALL)
    for place in range(1, len(parts), 5):
        parts[place + 2], parts[place + 1] = f"{globals()[parts[place + 1]]()}\n", ""
    return "".join(parts)


if __name__ == "__main__":
    for path in DOCS.glob("*.md"):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
