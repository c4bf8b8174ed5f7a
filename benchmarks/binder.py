"""The build of Binder from this repository, and the wait of a visitor: `make binder`.

The steps are those that repo2docker 2026.4.0 writes into its Dockerfile for a repository with a folder `binder/`, in
its order, in a fresh environment and a fresh home: its own packages (`BASE`, as in its lock file for Python 3.12), a
checkout of HEAD, `pip install --no-cache-dir -r binder/requirements.txt`, `binder/postBuild`. Then JupyterLab is
started through `binder/start`, and a Chromium opens the first notebook, runs it, and drags its slider. The folder
`binder/` is the one of the working tree, so that a change in it can be measured before it is committed.

Left out: the Ubuntu image and its apt packages, micromamba and conda, and nodejs (repo2docker takes its own packages
from conda-forge, here they come from PyPI); the push and the pull of the image, and the start of the container. Before
each start the files are taken out of the system's cache, as if the image had just been pulled.

With `--compare` all starts are repeated without the compiled programs that postBuild leaves behind.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
from classroom import ROOT, lab, memory, server_of, worked

BASE = ["ipykernel==7.0.1", "ipywidgets==8.1.7", "jupyter-offlinenotebook==0.3.2", "jupyter-resource-usage==1.2.0",
        "jupyter-server==2.17.0", "jupyterhub==5.4.0", "jupyterlab==4.4.9", "notebook==7.4.7"]  # fmt: skip
NOTEBOOK = "notebooks/00_start_here.ipynb"
MB = 1e6


def python_of_runtime() -> str:
    """The Python that binder/runtime.txt names, if there is one that runs; else this one."""
    name = (ROOT / "binder" / "runtime.txt").read_text().strip().replace("-", "")
    found = [shutil.which(name), *sorted((Path.home() / ".pyenv" / "versions").glob(f"*/bin/{name}"))]
    for path in filter(None, found):
        if not subprocess.run([path, "-c", ""], capture_output=True).returncode:
            return str(path)
    print(f"{name} is not here; this is with Python {sys.version.split()[0]}.")
    return sys.executable


def size(folder: Path) -> float:
    """MB in the files of a folder, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / MB


def packed() -> float:
    """MB of the packed history, which repo2docker copies into the image too."""
    said = subprocess.check_output(["git", "count-objects", "-v"], cwd=ROOT, text=True)
    return int(said.partition("size-pack: ")[2].split()[0]) * 1024 / MB


def build(folder: Path, python: str) -> dict[str, str]:
    """Environment and checkout, step by step; gives the variables that hold in the container."""
    home, repo, env = folder / "home", folder / "repo", folder / "env"
    home.mkdir()
    inside = {"HOME": str(home), "PATH": f"{env}/bin:{os.environ['PATH']}", "VIRTUAL_ENV": str(env)}

    def step(name: str, *command: str | Path) -> None:
        start = time.perf_counter()
        with (folder / "build.log").open("a") as log:
            done = subprocess.run(command, cwd=repo, env=os.environ | inside, stdout=log, stderr=log)
        if done.returncode:
            raise RuntimeError(f"{name}:\n{(folder / 'build.log').read_text()[-3000:]}")
        print(f"{name}: {time.perf_counter() - start:.0f} s; environment {size(env):.0f} MB", flush=True)

    repo.mkdir()
    pip = [env / "bin" / "pip", "install", "--no-cache-dir"]
    step("Python", python, "-m", "venv", env)
    step("packages of repo2docker", *pip, *BASE)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "x"], cwd=repo, input=archive, check=True)
    shutil.copytree(ROOT / "binder", repo / "binder", dirs_exist_ok=True)
    print(f"content: checkout {size(repo):.1f} MB, history {packed():.1f} MB", flush=True)
    step("binder/requirements.txt", *pip, "-r", "binder/requirements.txt")
    (repo / "binder" / "postBuild").chmod(0o755)
    step("binder/postBuild", repo / "binder" / "postBuild")
    return inside


def forget(folder: Path) -> None:
    """Take the files out of the system's cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def visit(folder: Path, inside: dict[str, str]) -> dict[str, float]:
    """Start, open, run, drag: seconds since the start of the server, CPU seconds and MiB of memory."""
    repo = folder / "repo"
    shutil.rmtree(repo / ".runtime", ignore_errors=True)
    forget(folder)
    seen, start = {}, time.perf_counter()

    def stop(name: str) -> None:
        seen[name] = time.perf_counter() - start

    with ExitStack() as stack:
        with (
            mock.patch("sys.executable", f"{folder}/env/bin/python"),
            mock.patch.dict(os.environ, inside),
            mock.patch.object(lab, "__file__", f"{repo}/tests/lab.py"),  # so: the start of the checkout
        ):
            url, token, log = stack.enter_context(lab.server(repo))
        stop("server answers, s")
        page = stack.enter_context(lab.browser())
        desk = lab.Desk(repo, url, token, log, page, lab.listen(page))
        desk.open(NOTEBOOK)
        stop("notebook open, kernel ready, s")
        lab.run_all(page)
        stop("all cells have run, s")
        lab.guess_all(page)
        explorer = lab.explorers(page).first
        explorer.wait_for(state="attached")
        before = lab.read(explorer)
        for _ in lab.drag(explorer.locator(".ef-axis input").first, moves=3):
            pass
        if lab.read(explorer)["pixels"] == before["pixels"]:
            raise RuntimeError("The slider moved, and the picture did not.")
        stop("first slider dragged, s")
        kernel = desk.ask("import os; print(os.getpid())")
        seen["CPU of the kernel, s"] = worked(kernel)
        seen["kernel at its peak, MiB"] = memory(kernel)["peak"]
        seen["server at its peak, MiB"] = memory(server_of(repo))["peak"]
        if desk.problems():
            raise RuntimeError("\n".join(desk.problems()))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="instead of the one that binder/runtime.txt names")
    parser.add_argument("--rounds", type=int, default=3, help="starts; the table has their median")
    parser.add_argument("--compare", action="store_true", help="also without what postBuild has compiled")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, python = Path(place), options.python or python_of_runtime()
        print(subprocess.check_output([python, "-VV"], text=True).strip())
        inside = build(folder, python)
        cache = folder / "repo" / "binder" / ".jax-cache"
        print(f"compiled: {size(cache):.1f} MB in {len([*cache.iterdir()])} files", flush=True)
        columns = {"": [visit(folder, inside) for _ in range(options.rounds)]}
        if options.compare:
            cache.rename(folder / "put-away")
            columns["nothing compiled"] = [visit(folder, inside) for _ in range(options.rounds)]
            (folder / "put-away").rename(cache)
    print("\n| | " + " | ".join(f"{name or 'median'} | each" for name in columns) + " |")
    print("|" + "---|" * (1 + 2 * len(columns)))
    for what in columns[""][0]:
        found = [[each[what] for each in rounds] for rounds in columns.values()]
        cells = (f"{np.median(of):.1f} | " + " ".join(f"{value:.1f}" for value in of) for of in found)
        print(f"| {what} | " + " | ".join(cells) + " |")
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
