"""Notebook 03: the constrained problem, its solution, its multiplier, and how equal the decreases are."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import TALL, WIDE, direction, exercise, positive, readable, rows
from efisher_teach.lessons.question import ask

ask(
    "along −g",
    "All steps on the ellipse cost the same. Is the one along −g the best of them?",
    "Yes: −g is the direction of steepest descent.",
    "No, but it is never far off.",
    "It depends on the shape of the ellipse.",
    because="It depends on the shape. −g is steepest where cost is length, that is, on a circle. On the data below the "
    "step along −g reaches about 90 % of the best decrease; with 30 features instead of 2 it reaches two thirds "
    "(notebook 04); and where C is a multiple of the identity, it is the best step itself.",
    answer=3,
)
ask(
    "how many lose",
    "The best step of cost c = 0.01 lowers the mean loss of 455 tumours. For what percentage of them does the loss "
    "rise, to first order?",
    because="6 %. The constraint counts the square of a change, and does not tell a rise from a fall: it keeps no loss "
    "from rising. What limits the rises is ρ: at most a fraction 1 − ρ of the losses can rise, here 28 %.",
    answer=6,
    high=50,
    within=3,
    unit="%",
)


def _tall(rng, size):
    return rows(rng, size, TALL), positive(rng, 0.004, 0.05)


def _parts(G, budget):
    """Split the step into its direction u, ρ and η = √(c/ρ); with G, g and c."""
    u, g = direction(G), G.mean(axis=0)
    return G, g, budget, u, g @ u, jnp.sqrt(budget / (g @ u))


@exercise(
    1, "On paper, for the numbers that the cell prints: find $C$, $g$, $\\rho$ and the step.",
    ("C is the mean of the three outer products, g the mean of the three rows.",
     "C is 2 × 2: its inverse is the matrix with the diagonal swapped and the other two negated, over the determinant.",
     "u = C⁻¹g, ρ = g·u, Δ = −√(c/ρ) u."),
    lambda rng, size: (rows(rng, 2), 0.01),
    parts=_parts, mistakes=lambda G, g, c, u, rho, rate: {
        "Ascent: the multiplier has the wrong sign. The step must go against g.":
            {"C": G.T @ G / len(G), "g": g, "rho": rho, "delta": rate * u},
        "1/n is missing: C and g are means over the three examples, not sums.":
            {"C": G.T @ G, "g": G.sum(axis=0), "rho": 3 * rho, "delta": -jnp.sqrt(c / (3 * rho)) * u},
        "The length is that of η = √c. The learning rate is √(c/ρ).":
            {"C": G.T @ G / len(G), "g": g, "rho": rho, "delta": -jnp.sqrt(c) * u},
    },
    by_hand=True,
)  # fmt: skip
def three_examples(G, budget):
    """Return {"C": [[…, …], […, …]], "g": […, …], "rho": …, "delta": […, …]}."""
    C, g = G.T @ G / len(G), G.mean(axis=0)
    direction = jnp.linalg.solve(C, g)
    rho = g @ direction
    return {"C": C, "g": g, "rho": rho, "delta": -jnp.sqrt(budget / rho) * direction}


@exercise(
    1, "A single example, $n=1$: what is the step? Here $C=gg^\\top$ has rank 1, so `solve` is no help; the answer is "
    "one line.",
    ("C⁺g for C = ggᵀ: which multiple of g does C send to g?",
     "C g = g (gᵀg), so C⁺g = g/‖g‖². And ρ = 1.",
     "−√c · g/‖g‖²: Polyak's step, with √c for the decrease that it hopes for."),
    lambda rng, size: (rows(rng, size, ((1, 1), (1, 2), (1, 3), (1, 3), (1, 3)))[0], positive(rng, 0.004, 0.05)),
    mistakes=lambda g, budget: {
        "Ascent: the step must go against g.": jnp.sqrt(budget) * g / (g @ g),
        "Divided by ‖g‖, not by ‖g‖²: this step has length √c. It should change the loss by √c.":
            -jnp.sqrt(budget) * g / jnp.linalg.norm(g),
        "The root is missing: c is a mean square, the loss changes by √c.": -budget * g / (g @ g),
    },
)  # fmt: skip
def one_example(g, budget):
    """Return the step (p,) for n = 1, gradient g (p,) and budget c."""
    return -jnp.sqrt(budget) * g / (g @ g)


@exercise(
    2, "Write the whole solution: from $G$ and $c$ to $\\Delta^\\star$.",
    ("Three lines: C and g; the direction; the length.",
     "The direction is C⁻¹g, by jnp.linalg.solve. The length must make ΔᵀCΔ = c.",
     "With u = C⁻¹g and ρ = g·u, the step is −√(c/ρ) u."),
    _tall,
    parts=_parts, mistakes=lambda G, g, c, u, rho, rate: {
        "Ascent: the multiplier has the wrong sign. This is the worst step of that cost.": rate * u,
        "η = √c: the step spends c·ρ, less than it may. The learning rate is √(c/ρ).": -jnp.sqrt(c) * u,
        "The root is missing in the learning rate: η = √(c/ρ).": -c / rho * u,
        "ρ is on the wrong side of the fraction: η = √(c/ρ), not √(cρ).": -jnp.sqrt(c * rho) * u,
        "Half as long as it may be: λ is ½√(ρ/c), so 1/(2λ) is √(c/ρ), with no ½ left.": -rate * u / 2,
        "1/n is missing in C: this is the step for the sum of the outer products, √n times too short.":
            -rate * u / jnp.sqrt(len(G)),
        "This is the step along −g for that cost. It is not preconditioned at all.":
            -g * jnp.sqrt(c / jnp.mean((G @ g) ** 2)),
        "Centred: C is the uncentred second moment. The direction is right, the length is not.":
            -rate * u / jnp.sqrt(1 - rho),
    },
    properties={
        "four times the budget makes the step twice as long.":
            lambda answer, G, c: (answer(G, 4 * c), 2 * np.asarray(answer(G, c))),
        "losses in another unit, ℓ and √c both times 10, leave the step as it is.":
            lambda answer, G, c: (answer(10 * G, 100 * c), answer(G, c)),
    },
)  # fmt: skip
def lagrange_step(G, budget):
    """Return the best step (p,) with ΔᵀCΔ = budget, for G (n, p), n > p."""
    C, g = G.T @ G / len(G), G.mean(axis=0)
    direction = jnp.linalg.solve(C, g)
    return -jnp.sqrt(budget / (g @ direction)) * direction


@exercise(
    2, "The proof in six lines, with two blanks. Line 3 says $g^\\top C^{+}g/(4\\lambda^2)=c$. Fill in line 4, "
    "$\\lambda$, and line 6, the decrease of the mean loss.",
    ("Solve line 3 for λ: which of the two roots is the minimum?",
     "With λ > 0 the Lagrangian is convex. And the decrease is −g·Δ, with Δ of line 5.",
     "λ = √(ρ/c)/2, and −g·Δ = √(c/ρ)·ρ."),
    lambda rng, size: (positive(rng, 0.1, 1), positive(rng, 0.001, 0.1)),
    parts=lambda rho, budget: (jnp.sqrt(rho / budget) / 2, jnp.sqrt(budget * rho)),
    mistakes=lambda multiplier, decrease: {
        "The ½ is missing: this is the multiplier of ½(ΔᵀCΔ − c). Ours has no ½ before it.": (2 * multiplier, decrease),
        "The wrong root: with a negative multiplier the stationary point is the worst step, ascent.":
            (-multiplier, decrease),
        "The decrease is the size of the change: leave the minus out.": (multiplier, -decrease),
        "√c is the root-mean-square change. The mean loss falls by less, if ρ < 1.":
            (multiplier, jnp.sqrt(decrease / multiplier / 2)),
        "This is the multiplier upside down: 1/λ. Its unit is that of η.": (1 / multiplier, decrease),
    },
)  # fmt: skip
def two_blanks(rho, budget):
    """Return (λ, the first-order decrease of the mean loss), for ρ and the budget c."""
    return jnp.sqrt(rho / budget) / 2, jnp.sqrt(budget * rho)


def _reaches(v, G):
    v, G = np.asarray(v, float), np.asarray(G, float)
    if v.size and not np.isfinite(v).all():
        return "it is not finite: C is singular, and a plain solve divides by zero"
    v, C, g = readable(v, G.shape[1]), G.T @ G / len(G), G.mean(axis=0)
    off = np.linalg.norm(C @ v - g) / np.linalg.norm(g)
    return True if off < 1e-3 else f"C v misses g by {100 * off:.0f} % of its length"


@exercise(
    2, "Fewer examples than parameters: $C$ is singular. And yet $g$ is in its range, always. Show it: return a $v$ "
    "with $Cv=g$.",
    ("What does C v look like, written with the rows of G?",
     "C v = (1/n) Σ gᵢ (gᵢᵀv), and g = (1/n) Σ gᵢ. What if gᵢᵀv = 1 for every i?",
     "Solve G v = 1, a wide system: jnp.linalg.lstsq, or Gᵀ(GGᵀ)⁻¹1."),
    lambda rng, size: (rows(rng, size, WIDE),),
    accepts=_reaches,
    why="So whatever $C$ does not see, $g$ does not want: if $z^\\top Cz=\\frac1n\\sum_i(g_i^\\top z)^2=0$, then "
    "every $g_i^\\top z$ is 0, and so is their mean, $g^\\top z$. This needs the *same* examples in $C$ and in $g$. "
    "With $C$ from other examples, the undamped problem may have no minimum.",
)  # fmt: skip
def reach_the_gradient(G):
    """Return v (p,) with C v = g, where G (n, p) has fewer rows than columns."""
    return G.T @ jnp.linalg.solve(G @ G.T, jnp.ones(len(G)))


def _tight(G):
    G = readable(G, "n", "p")
    if len(G) < 2 or np.linalg.matrix_rank(G) < G.shape[1]:
        return f"at least 2 rows and independent columns are expected, its shape is {G.shape}"
    C, g = G.T @ G / len(G), G.mean(axis=0)
    u = np.linalg.solve(C, g)
    rho, worse = g @ u, np.mean(-(G @ u) > -1e-9)
    if worse == 0:
        return f"every example improves; ρ = {rho:.3f}"
    return (
        bool(abs(worse - (1 - rho)) < 1e-6)
        or f"{worse:.3f} do not improve, the bound is 1 − ρ = {1 - rho:.3f}"
    )


@exercise(
    3, "At most a fraction $1-\\rho$ of the examples does not improve, to first order. Show that no smaller bound "
    "holds: give a $G$ where it is *exactly* $1-\\rho$, and $\\rho<1$.",
    ("One parameter is enough. Then ρ = g²/C, a ratio of mean² to mean of squares.",
     "Let the examples that do not improve have the gradient 0, and all others the same.",
     "With k ones and n − k zeros: ρ = (k/n)²/(k/n) = k/n."),
    accepts=_tight,
    why="Here $\\rho=\\tfrac23$, and one loss of three does not fall.",
)  # fmt: skip
def tight():
    """Return G (n, p), n ≥ 2, where exactly 1 − ρ > 0 of the losses do not fall."""
    return jnp.array([[1.0], [1.0], [0.0]])
