"""Draw every scene at its default and at both ends of its slider, for eyes: `make figures` writes docs/figures/."""

from pathlib import Path

import efisher_teach as ef

OUT = Path(__file__).parent.parent / "docs" / "figures"


def main() -> None:
    """Write three pictures a scene."""
    two = ef.descend(ef.breast_cancer(), steps=6, learning_rate=0.5)
    thirty = ef.descend(ef.breast_cancer(None), steps=50, learning_rate=0.5)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, scene in {"ellipsoid": ef.scenes.ellipsoid(two), "damping": ef.scenes.damping(thirty)}.items():
        explorer = ef.Explorer(scene)
        axis = scene.axes[0]
        for place, value in (("first", axis.values[0]), ("default", axis.default), ("last", axis.values[-1])):
            setattr(explorer, axis.name, float(value))
            (OUT / f"{name}_{place}.png").write_bytes(explorer.to_png(ratio=1))
            print(f"{name}, {axis.label} = {axis.say(value)}: {explorer.words}")


if __name__ == "__main__":
    main()
