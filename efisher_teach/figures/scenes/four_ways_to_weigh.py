"""Four ways to weigh: a step is a combination -Σ αᵢgᵢ of gradients. Whose α? All of them come from one K.

Three examples pull one way, a fourth another way. With their gradients g₁ (of the three) and g₂:

    descent              all αᵢ alike
    empirical Fisher     α = (K + εI)⁻¹1, so that all losses fall by the same if ε is small; α may be negative
    MGDA                 the shortest combination with αᵢ ≥ 0 and Σ αᵢ = 1 (Désidéri, 2012)
    UPGrad               the mean of the gradients, after each has lost what would raise another loss (Quinton and Rey)

The cost is the course's, E[(gᵢᵀΔ)²] = c, for all four.
"""

import jax.numpy as jnp
import numpy as np

from efisher_teach.core.precision import dot
from efisher_teach.core.solve import quotient
from efisher_teach.core.two_by_two import solve_two_by_two
from efisher_teach.figures.ink import CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, OTHER, TRUTH
from efisher_teach.figures.marks import arrow, centre, key, line, polygons, set_up
from efisher_teach.figures.plane import from_origin, rectangles, turn, unit
from efisher_teach.figures.scene import Axis, Preset, Scene, degrees, empty, scientific

SHARES = np.array([0.75, 0.25])  # of the three, and of the fourth
ANGLES = np.arange(0.0, 171, 5)
LENGTHS = 2.0 ** np.arange(-3, 3.1, 0.5)
DAMPINGS = np.logspace(-4, 2, 7)
WAYS = {
    "descent": ("descent", DESCENT),
    "equal": ("empirical Fisher", EMPIRICAL_FISHER),
    "hull": ("MGDA", OTHER),
    "projected": ("UPGrad", TRUTH),
}
HALF, ASPECT = 1.25, 1.0  # half the height of the plane; width by height
LOWEST, HIGHEST = -2.4, 2.4  # changes that are shown, in √c
WIDTH = 0.18  # of a bar
MARKS = {
    "allowed": polygons("A", FAINT),
    "three": line("A", CONSTRAINT, 1.4, dashes=(4, 2)),
    "fourth": line("A", CONSTRAINT, 1.4, dashes=(1, 2)),
    "descent_step": arrow("A", DESCENT),
    "equal_step": arrow("A", EMPIRICAL_FISHER),
    "hull_step": line("A", OTHER, 2.5, dashes=(2, 1.5)),  # an arrow below it, for the same step, is seen
    "projected_step": arrow("A", TRUTH),
    **{f"{name}_changes": polygons("B", color) for name, (_, color) in WAYS.items()},
    **{f"{name}_weights": polygons("C", color) for name, (_, color) in WAYS.items()},
}


def four_ways_to_weigh() -> Scene:
    """Turn and stretch the gradient of one example of four: who gets worse, by descent, empirical Fisher, MGDA, UPGrad?

    Returns:
        A `Scene` with the axes "angle" and "length" of the fourth gradient, and "damping".

    Reference:
        P. Quinton, V. Rey, "Jacobian descent for multi-objective optimization", 2024.

    Examples:
        >>> scene = ef.scenes.four_ways_to_weigh()
        >>> print([axis.name for axis in scene.axes])
        ['angle', 'length', 'damping']
        >>> print(scene.presets[0].asks)
        Which of the others treats both groups alike?
    """
    return Scene(
        title="Four ways to weigh the same gradients",
        axes=(
            Axis("angle", "angle of the fourth gradient", ANGLES, 120.0, degrees),
            Axis("length", "its length", LENGTHS, 1.0, lambda value: f"{value:.2g}"),
            Axis("damping", "damping ε", DAMPINGS, 1e-4, scientific),
        ),
        data={"shares": jnp.asarray(SHARES, float)},
        background=empty,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("ABC", "A;B;C"),
        words=WORDS,
        size=(10.0, 4.0),
        narrow=(4.8, 11.0),
        presets=PRESETS,
    )


WORDS = (
    "The fourth gradient is {length} times as long as the three, at {angle} to them. At the same cost c the losses of "
    "the three and the fourth change, in √c, by {descent_three:.2f} and {descent_fourth:.2f} with descent, "
    "{equal_three:.2f} and {equal_fourth:.2f} with the empirical Fisher at ε = {damping}, {hull_three:.2f} and "
    "{hull_fourth:.2f} with MGDA, {projected_three:.2f} and {projected_fourth:.2f} with UPGrad. The empirical Fisher "
    "gives {share:.0f} % of all weight to the fourth."
)
PRESETS = (
    Preset("In conflict", {"angle": 120.0, "length": 1.0, "damping": 1e-4},
           "Descent goes with the three, and the fourth pays.",
           "Which of the others treats both groups alike?"),
    Preset("A loud one", {"angle": 60.0, "length": 4.0, "damping": 1e-4},
           "All four losses fall alike only if the loud gradient has a negative weight: its own term goes uphill.",
           "What does MGDA do, which may not give a negative weight?"),
    Preset("A quiet one", {"angle": 120.0, "length": 0.25, "damping": 1e-4},
           "To lower the quiet loss as much as the others, equal decrease must give its gradient most of the weight.",
           "Whose step would you take if the fourth label were wrong?"),
    Preset("Damped", {"angle": 120.0, "length": 0.25, "damping": 1.0},
           "Beside ε the quiet gradient hardly counts: the empirical Fisher is nearly descent.",
           "At which ε does the fourth begin to pay?"),
)  # fmt: skip


def respond(data, state):
    """Weights, directions and changes of the four ways."""
    shares, first = data["shares"], jnp.array([1.0, 0.0], data["shares"].dtype)
    turned = turn(first, state["angle"])
    G = jnp.stack([first, state["length"] * turned])
    K = dot(G, G.T)
    weights = {
        "descent": shares,
        "equal": _equal(K, shares, state["damping"]),
        "hull": _hull(K),
        "projected": _projected(K, shares),
    }
    found = {}
    for place, (name, alpha) in enumerate(weights.items()):
        delta = -dot(alpha, G)
        changes = dot(G, delta)
        changes = quotient(changes, jnp.sqrt(jnp.sum(shares * changes**2)))
        found |= from_origin(**{f"{name}_step": unit(delta)})
        at = jnp.arange(2.0) + WIDTH * (place - 1.5)
        found[f"{name}_changes"] = rectangles(at, jnp.clip(changes, LOWEST, HIGHEST), WIDTH)
        found[f"{name}_weights"] = rectangles(at, quotient(alpha, jnp.sum(jnp.abs(alpha))), WIDTH)
        found |= {f"{name}_three": changes[0], f"{name}_fourth": changes[1]}
    alpha = weights["equal"]
    edges = jnp.stack([jnp.array([0.0, -1.0]), jnp.stack([-turned[1], turned[0]])])  # where one loss stays
    corners = jnp.stack([jnp.zeros(2), edges[0], unit(edges[0] + edges[1] - 1e-6 * turned), edges[1]])
    return {
        **found,
        **from_origin(three=-unit(G[0]), fourth=-turned),
        "allowed": (4 * HALF * corners)[None],
        "share": 100 * alpha[1] / jnp.sum(jnp.abs(alpha)),
    }


def still(panels, background):
    """The plane of directions; changes and weights of the two groups."""
    plane, changes, weights = (panels[letter] for letter in "ABC")
    centre(plane, HALF * np.array([ASPECT, 1.0]), ASPECT, xlabel="Δ₁", ylabel="Δ₂")
    plane.set_title("Directions; grey: no loss rises")
    key(
        plane,
        "upper right",
        ("−g: three (dashed)", CONSTRAINT),
        ("fourth (dotted)", CONSTRAINT),
        ("MGDA (dashed)", OTHER),
    )
    for panel in (changes, weights):
        set_up(panel, zero=True, xlim=(-0.5, 1.5), xticks=(0, 1), xticklabels=("the three", "the fourth"))
    changes.set_ylim(LOWEST, HIGHEST)
    changes.set_title("Change of the loss, in √c")
    key(changes, "upper left", *WAYS.values())
    weights.set_ylim(-0.6, 1.05)
    weights.set_title("Weight of the group")


def _equal(K, shares, damping):
    """α with -(C + εI)⁻¹g = -Gᵀα, one entry a group: (SK + εI)α = s, where S = diag(s) has the shares s."""
    root = jnp.sqrt(shares)
    return root * solve_two_by_two(root[:, None] * K * root + damping * jnp.eye(2), root)


def _hull(K):
    """The shortest point of the segment between two gradients."""
    first = quotient(K[1, 1] - K[0, 1], K[0, 0] - 2 * K[0, 1] + K[1, 1])
    first = jnp.clip(first, 0, 1)
    return jnp.stack([first, 1 - first])


def _projected(K, shares):
    """Each gradient without what is against the other, in the mean."""
    against = jnp.minimum(K[0, 1], 0)
    return shares - against * shares[::-1] / jnp.diag(K)
