"""Draw every scene at its default and in two extreme states, for eyes, into _figures/; and the README's picture."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import gallery

ROOT = Path(__file__).parents[1]
OUT = ROOT / "_figures"


def main() -> None:
    """Write three pictures a scene."""
    OUT.mkdir(exist_ok=True)
    for name in gallery.BARE:
        explorer = gallery.explorer(name)
        axes = explorer.scene.axes
        ends = {
            "default": {axis.name: axis.default for axis in axes},
            "first": {axis.name: float(axis.values[0]) for axis in axes},
            "last": {axis.name: float(axis.values[-1]) for axis in axes},
        }
        for state, values in ends.items():
            explorer.restore(**values)
            (OUT / f"{name}_{state}.png").write_bytes(explorer.to_png(ratio=1 if state == "default" else 0.6))
            print(f"{name}, {state}: {explorer.words}")
    explorer = gallery.explorer("the_best_step")
    explorer.restore(turn=60)  # where the three steps lie apart
    (ROOT / "docs" / "images" / "the_best_step.png").write_bytes(explorer.to_png(ratio=1))


if __name__ == "__main__":
    main()
