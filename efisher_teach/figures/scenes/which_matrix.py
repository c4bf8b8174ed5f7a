"""Stand-ins for the Fisher F of a small network, and −g: how much the step of each is worth, and its price.

A step u is worth gᵀu/√(uᵀFu): the decrease that it promises for its KL divergence. None is worth more than F⁻¹g, so
that is the measure: its share of the best, the cosine with F⁻¹g in the metric of F. The price is counted in backward
passes over the batch: one gives g and all rows of C, one more a label for each example, k the exact F of k classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullLocator

from efisher_teach.core.problems import Problem, descend
from efisher_teach.figures import plane as view
from efisher_teach.figures.ink import CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, NATURAL, OTHER
from efisher_teach.figures.marks import dots, key, label, line, polygons, set_up
from efisher_teach.figures.plane import percent, place_of, points
from efisher_teach.figures.scene import Axis, Preset, Scene, empty
from efisher_teach.network.stand_ins import directions, judge, require_dense_layers, stand_ins

DAMPINGS = np.array([1e-3, 1e-2, 0.1, 1.0, 10.0])  # in mean eigenvalues of the matrix that is damped
STRIDE, STEPS = 10, (0, 10, 50, 300)  # of descent on all examples, at a rate of 0.5
BATCHES = (64, 256, 1024)
LABELS, DRAWS = (1, 2, 4, 8), 5  # sampled for each example, and how often
QUARTERS = "0", "¼", "½", "¾", "best"
LARGEST = 400  # parameters: F is written down
ROWS = {  # from below, by price
    "descent": "−g",
    "root": "√diag C, as in Adam",
    "diag_empirical": "diag C",
    "empirical": "C",
    "weighted": "C, weighted",
    "kfac_empirical": "K-FAC of C",
    "kfac": "K-FAC, one label",
    "labels_1": "F, one label",
    "labels_4": "F, four labels",
    "diag_fisher": "diag F",
    "fisher": "F",
}
PRICES, DRAWN = np.array([1, 1, 1, 1, 1, 1, 2, 2, 5, 10, 10]), slice(6, 9)  # drawn by chance: they have bars
GROUPS = {"alone": slice(1), "observed": slice(1, 5), "kronecker": slice(5, 7), "believed": slice(7, 11)}
TURNED = "descent", "empirical", "weighted", "kfac_empirical", "labels_1"  # whose cosines are said
MARKS = {
    "ranges": line("A", f"{NATURAL}70", 5),
    "cosines": dots("A", CONSTRAINT, 5),
    "band": polygons("B", f"{NATURAL}40"),
    "level": line("B", EMPIRICAL_FISHER, 1.2),
    "weighted_level": line("B", EMPIRICAL_FISHER, 1.2, dashes=(4, 2)),
    "descent_level": line("B", DESCENT, 1.2),
    "curve": line("B", NATURAL, 1.8),
    "factored": dots("B", OTHER, 9),
    "observed": dots("A", EMPIRICAL_FISHER, 9),
    "kronecker": dots("A", OTHER, 9),
    "believed": dots("A", NATURAL, 9),
    "alone": dots("A", DESCENT, 9),
    "cheap": dots("B", EMPIRICAL_FISHER, 9),
    "cheapest": dots("B", DESCENT, 9),
    "labels": dots("B", NATURAL, 9),
}


def which_matrix(problem: Problem, *, seed: int = 0) -> Scene:
    """Drag ε, the progress of training and the batch: what the step of each matrix is worth, against its price.

    Args:
        problem: A small network of dense layers with ten classes, where its training starts: digits(…, side=4).
        seed: Of the labels that are sampled.

    Returns:
        A `Scene` with the axes "damping", "steps" and "batch".

    Raises:
        ValueError: The likelihood is not categorical; a layer has no "W" and "b"; more than 400 parameters, or fewer
            than 1024 examples.

    Examples:
        >>> scene = ef.scenes.which_matrix(ef.digits(hidden=(6,), side=4))
        >>> print(scene.presets[1].asks)
        Which of the two errors do more data remove?
    """
    require_dense_layers(problem, classes=int(PRICES[-1]), most=LARGEST)
    view.require_examples(problem, BATCHES[-1])
    trained = [problem]
    for _ in range(STEPS[-1] // STRIDE):  # one program for all
        trained.append(descend(trained[-1], steps=STRIDE, learning_rate=0.5))
    stages = (trained[steps // STRIDE].params for steps in STEPS)
    stages = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *stages)
    return Scene(
        title="Which matrix, at what price?",
        axes=(
            Axis("damping", "damping ε, in mean eigenvalues", DAMPINGS, 0.01, "{:g}".format),
            Axis("steps", "trained for", np.array(STEPS, float), 10.0, "{:.0f} steps".format),
            Axis("batch", "batch", np.array(BATCHES, float), 256.0, "{:.0f} examples".format),
        ),
        data={"problem": problem, "stages": stages, "key": jax.random.key(seed)},
        background=empty,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAABB", "A;A;B"),
        words=WORDS,
        size=(10.0, 4.7),
        narrow=(4.8, 9.0),
        presets=PRESETS,
    )


WORDS = (
    "ε is {damping} times the mean eigenvalue of each matrix, after {steps} of training, in a batch of {batch}. At "
    "equal KL divergence, in % of the best decrease, a step promises: {fisher:.0f} with F and {diag_fisher:.0f} with "
    "its diagonal, for 10 gradients; {labels_4:.0f} with four sampled labels, for 5; {labels_1:.0f} with one "
    "({one_low:.0f} to {one_high:.0f} in five draws) and {kfac:.0f} with K-FAC, for 2. For 1 gradient: {empirical:.0f} "
    "with C, {weighted:.0f} with C weighted, {kfac_empirical:.0f} with K-FAC of C, {diag_empirical:.0f} with the "
    "diagonal of C, {root:.0f} with its root, {descent:.0f} along −g. The cosine with the step of F is "
    "{cos_labels_1:.2f} for one label, {cos_empirical:.2f} for C, {cos_weighted:.2f} for C weighted, "
    "{cos_kfac_empirical:.2f} for K-FAC of C and {cos_descent:.2f} for −g."
)
PRESETS = (
    Preset("Little damping", {"damping": 1e-3, "steps": 10.0, "batch": 256.0},
           "The price of C is that of −g, and here its step is worth less.",
           "Which dot of price 1 comes nearest to F?"),
    Preset("More examples", {"damping": 1e-3, "steps": 10.0, "batch": 1024.0},
           "The error of a sampled label is noise, and shrinks; this early, that of C shrinks little.",
           "Which of the two errors do more data remove?"),
    Preset("Much damping", {"damping": 10.0, "steps": 10.0, "batch": 256.0},
           "Every cosine is near 1, as every step is nearly along −g.",
           "Is F still worth ten gradients?"),
    Preset("Late", {"damping": 1e-3, "steps": 300.0, "batch": 1024.0},
           "The order changes as the network learns: with 1024 examples C has passed K-FAC, and −g is last.",
           "What would you take for one gradient, early and late?"),
)  # fmt: skip


def respond(data, state):
    """Every direction in one state: its share of the best decrease, and its cosine with F's."""
    problem = data["problem"]
    stage, batch = place_of(state["steps"], STEPS), place_of(state["batch"], BATCHES)
    params = jax.tree.map(lambda leaf: leaf[stage], data["stages"])
    z = jax.vmap(lambda x: problem.output_fn(params, x))(problem.x[: BATCHES[-1]])
    labels = jax.random.categorical(data["key"], z[:, None], shape=(DRAWS, len(z), LABELS[-1]))
    known = stand_ins(problem, params, labels, batches=BATCHES, counts=LABELS)
    g, matrices = jax.tree.map(lambda each: each[batch], known)
    found, F = directions(g, matrices, state["damping"]), matrices["fisher"][0]
    names, judged = [*found], judge(g, F, found)
    share, cosine, low, high = (judged[reading] for reading in ("share", "cosine", "low", "high"))

    def of(*chosen):
        return np.array([names.index(name) for name in chosen])

    at, rows, labels = np.arange(len(ROWS)), of(*ROWS), of(*(f"labels_{count}" for count in LABELS))
    prices = np.array([*(1 + count for count in LABELS), PRICES[-1]])
    curve = points(prices, share[np.append(labels, of("fisher"))])
    levels = {"level": "empirical", "weighted_level": "weighted", "descent_level": "descent"}
    return {
        "ranges": jnp.stack([points(end[rows[DRAWN]], at[DRAWN]) for end in (low, high)], axis=1),
        "cosines": points(jnp.maximum(cosine[rows], 0), at),
        **{name: points(share[rows[group]], at[group]) for name, group in GROUPS.items()},
        "band": points(np.r_[prices[:-1], prices[-2::-1]], jnp.append(low[labels], high[labels[::-1]]))[None],
        **{mark: points(PRICES[[0, -1]], share[of(name)]) for mark, name in levels.items()},
        **dict.fromkeys(("curve", "labels"), curve),
        "factored": points(np.array([1, 2]), share[of("kfac_empirical", "kfac")]),
        "cheap": points(1, share[of("empirical", "weighted")]),
        "cheapest": points(1, share[names.index("descent")]),
        **percent(**{name: share[names.index(name)] for name in ROWS}),
        **percent(one_low=low[names.index("labels_1")], one_high=high[names.index("labels_1")]),
        **{f"cos_{name}": cosine[names.index(name)] for name in TURNED},
    }


def still(panels, background):
    """A row for each matrix, grouped by price, at the left; at the right what more labels are worth."""
    rows, price = panels["A"], panels["B"]
    rows.set(xlim=(0, 1.3), ylim=(-0.7, len(ROWS) - 0.3), title="What the step of each matrix is worth")
    rows.set(xlabel="decrease at equal KL (small dots: cosine)")
    rows.set_xticks([0, 0.25, 0.5, 0.75, 1], QUARTERS)
    rows.set_yticks(range(len(ROWS)), [*ROWS.values()])
    rows.axvline(1, color=FAINT, lw=1)
    for cost in dict.fromkeys(PRICES.tolist()):
        (where,) = np.nonzero(cost == PRICES)
        if where[0]:
            rows.axhline(where[0] - 0.5, color=FAINT, lw=1)
        label(rows, 1.29, where.mean(), f"price {cost}", CONSTRAINT, ha="right", va="center")

    set_up(price, log="x", xlim=(0.85, 11.8), ylim=(0, 1.05))
    price.set(xlabel="price, in gradients", title="What more labels are worth")
    price.set_xticks([1, 2, 3, 5, 10], ["1", "2", "3", "5", "10"])
    price.xaxis.set_minor_locator(NullLocator())
    price.set_yticks([0, 0.25, 0.5, 0.75, 1], QUARTERS)
    key(price, "lower right", ("labels sampled, then F", NATURAL), ("K-FAC", OTHER),
        ("C (dashed: weighted)", EMPIRICAL_FISHER), ("−g", DESCENT))  # fmt: skip
