"""Notebook 05: gradients, matrices and steps in other coordinates, and what leaks."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import exercise, positive, readable, rows
from efisher_teach.lessons.question import ask

ask(
    "in log-space",
    "Your parameters are positive; a colleague trains their logarithms, ψ = log θ. Both of you take one "
    "empirical-Fisher step from the same θ, with the same tiny η and the same damping ε = 0.1. The update is said to "
    "be invariant. Do you arrive at the same θ?",
    "Yes, exactly: that is what invariant means.",
    "Nearly: a short step does not feel that the logarithm is curved.",
    "No, and shorter steps do not help.",
    "No: only the true Fisher makes an invariant step.",
    because="No, however short the steps are. The two differ by 59.2 % of their length, because ε adds the same "
    "number to two matrices that have different units. Undamped, the second answer is right: the gap between the two "
    "ends falls as η². The last answer is a myth: any matrix that changes with the coordinates as C does makes such a "
    "step.",
    answer=3,
)
ask(
    "in bits",
    "You measure the losses in bits instead of nats: each of them is 1.44 times as large. η stays the same number, "
    "and there is no damping. What happens to the empirical-Fisher step?",
    "It gets 1.44 times longer, as g does.",
    "It stays: the factor in C and the factor in g cancel.",
    "It gets 1.44 times shorter.",
    because="It gets 1.44 times shorter: g grows by the factor, C by its square. Gradient descent gets longer instead. "
    "So η has the unit of a loss: whoever changes the unit must multiply η by 1.44 as well, and then the step stays.",
    answer=3,
)
ask(
    "ten tumours, two units",
    "Ten tumours, 30 measurements: C is singular. Two people take the undamped step −ηC⁺g. One of them has half of "
    "the measurements in a unit ten times as small. What do their two steps have in common?",
    "Everything: a change of units is linear, so nothing is bent.",
    "What they do to the losses of these ten tumours.",
    "Their direction, but not their length.",
    "Nothing: a pseudo-inverse depends on the unit.",
    because="What they do to these ten losses, and nothing else: each loss falls by η, to first order, in either "
    "unit. But C⁺ takes the shortest step that does so, and what is shortest depends on the unit. On tumours that "
    "neither of them has seen, one step does four times as much as the other.",
    answer=2,
)


def _chart(rng, p):
    """A Jacobian (p, p) that is neither symmetric nor nearly orthogonal, and well conditioned."""
    while True:
        J = rng.integers(-2, 3, (p, p))
        singular = np.linalg.svd(J, compute_uv=False)
        skew = np.abs(J - J.T).max() > 0 and np.abs(J @ J.T - J.T @ J).max() > 0
        if singular[-1] > 0.3 and 1.3 * singular[-1] < singular[0] < 8 * singular[-1] and skew:
            return jnp.asarray(J, float)


SHAPES = ((3, 2), (4, 2), (5, 2), (7, 3), (12, 3))


def _there(rng, size):
    G = rows(rng, size, SHAPES)
    return G.mean(axis=0), G.T @ G / len(G), _chart(rng, G.shape[1])


@exercise(
    1, "Bring the gradient and the matrix from $\\theta$ to $\\psi$, where $\\theta=\\varphi(\\psi)$ and "
    "$J=\\partial\\theta/\\partial\\psi$.",
    ("Each gᵢ becomes Jᵀgᵢ, by the chain rule. So what does their mean become?",
     "And the mean of gᵢgᵢᵀ becomes the mean of (Jᵀgᵢ)(Jᵀgᵢ)ᵀ: take J out on both sides.",
     "(Jᵀgᵢ)(Jᵀgᵢ)ᵀ = Jᵀ gᵢgᵢᵀ J."),
    _there,
    mistakes=lambda g, C, J: {
        "J stands on the wrong sides of C: (Jᵀgᵢ)(Jᵀgᵢ)ᵀ has Jᵀ on the left and J on the right.":
            (J.T @ g, J @ C @ J.T),
        "J carries steps, from ψ to θ. A gradient goes the other way, with Jᵀ.": (J @ g, J.T @ C @ J),
        "Transposed throughout: with gradients in rows it is GJ, so g becomes Jᵀg and C becomes JᵀCJ.":
            (J @ g, J @ C @ J.T),
        "With the inverse: that is how a step goes from θ to ψ. Gradients take Jᵀ.":
            (jnp.linalg.solve(J, g), jnp.linalg.solve(J, jnp.linalg.solve(J, C).T)),
        "C has lost one J: it has two sides, and both of them change their coordinates.": (J.T @ g, C @ J),
        "C is no map from θ to θ that would become J⁻¹CJ. It is made of gradients: both sides take J.":
            (J.T @ g, jnp.linalg.solve(J, C @ J)),
    },
    properties={
        "gᵀC⁻¹g, the ρ of notebook 03, is the same number in both coordinates.":
            lambda answer, g, C, J: (_rho(*answer(g, C, J)), _rho(g, C)),
    },
)  # fmt: skip
def pull_back(g, C, J):
    """Return g (p,) and C (p, p) in the coordinates ψ, for J (p, p)."""
    return J.T @ g, J.T @ C @ J


def _rho(g, C):
    g, C = np.asarray(g, float), np.asarray(C, float)
    return g @ np.linalg.solve(C, g)


def _scalar(rng, size):
    g = positive(rng, 0.5, 2) * rng.choice([-1, 1])
    return positive(rng, 0.2, 1), g, float(f"{g**2 * rng.uniform(1, 2):.1e}"), positive(rng, 0.2, 0.6)


@exercise(
    2, "One parameter, $\\theta=\\psi^2$. Take the undamped step in $\\psi$, come back to $\\theta$, and take it in "
    "$\\theta$. By how much is the first end higher than the second? There is an exact formula.",
    ("Write J = 2ψ, and g and C in ψ. What is Δψ?",
     "Δψ = −η Jg/(J²C) = −ηg/(2ψC). Now square ψ + Δψ.",
     "(ψ + Δψ)² = θ + 2ψΔψ + Δψ². The second term is the step in θ, so the gap is Δψ²."),
    _scalar,
    parts=lambda theta, g, C, eta: (theta, eta * g / C), mistakes=lambda theta, step: {
        "This is the leading term for θ = exp ψ. The square is half as curved.": step**2 / (2 * theta),
        "Nothing left: to first order that is so. But ψ² is curved, and the step is not infinitely short.": 0.0,
        "The sign: the end by way of ψ is the higher one, as squares are convex.": -(step**2) / (4 * theta),
        "θ is missing: J² = 4ψ² = 4θ.": step**2 / 4,
        "This is Δψ² if C were left as it is. In ψ it is J²C.": 4 * theta * step**2,
        "This is the gap in proportion to the step. The distance itself is asked for.": abs(step) / (4 * theta),
    },
    properties={
        "half of η leaves a quarter of the gap.":
            lambda answer, theta, g, C, eta: (answer(theta, g, C, eta / 2), answer(theta, g, C, eta) / 4),
    },
    why="The gap is large where $\\theta$ is small: there the square root is steep.",
)  # fmt: skip
def gap_of_the_square(theta, g, C, learning_rate):
    """Return the θ reached by way of ψ minus the θ reached directly, all numbers."""
    return learning_rate**2 * g**2 / (4 * theta * C**2)


def _by_logit(q, delta):
    return 1 / (1 + jnp.exp(-(jnp.log(q / (1 - q)) + delta)))


def _power(q, y):
    return q**2 - 2 * q * y + y


def _coin(rng, size):
    heads, tosses = ((7, 10), (1, 4), (9, 10), (3, 5), (11, 20))[size]
    y = heads / tosses
    q = rng.choice([q for q in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9) if abs(q - y) > 0.15])
    return float(q), y, positive(rng, 0.2, 0.9)


@exercise(
    2, "A model says that a coin shows heads with probability $q$; a fraction $y$ of the tosses was heads. Take the "
    "undamped empirical-Fisher step in $s=\\log\\frac q{1-q}$, and go back: what is the new $q$?",
    ("In s the gradient of a toss is q − 1 if it was heads, q if it was tails. What are the mean and the mean square?",
     "g = q − y, and C = y(q − 1)² + (1 − y)q².",
     "s ← log(q/(1 − q)) − ηg/C, and then q = 1/(1 + e⁻ˢ)."),
    _coin,
    mistakes=lambda q, y, learning_rate: {
        "To first order only: this is q + JΔs, and also the step taken in q itself. Come back by 1/(1 + e⁻ˢ).":
            q - learning_rate * (q - y) * q * (1 - q) / _power(q, y),
        "This is the new s. Come back to q.": jnp.log(q / (1 - q)) - learning_rate * (q - y) / _power(q, y),
        "q(1 − q) is the mean square over tosses drawn from the model: a natural gradient. C is that over the observed "
        "tosses.": _by_logit(q, -learning_rate * (q - y) / (q * (1 - q))),
        "Gradient descent in s: it is not divided by C.": _by_logit(q, -learning_rate * (q - y)),
        "C is the mean of the squares, not the square of the mean.": _by_logit(q, -learning_rate / (q - y)),
        "Centred: y(1 − y) is the variance of the gradients. C is their mean square.":
            _by_logit(q, -learning_rate * (q - y) / (y * (1 - y))),
        "Ascent: q must move towards y.": _by_logit(q, learning_rate * (q - y) / _power(q, y)),
        "This adds Δs to q, but Δs is a step in s.": q - learning_rate * (q - y) / _power(q, y),
    },
    properties={
        "however large η is, q stays between 0 and 1.":
            lambda answer, q, y, eta: (np.clip(answer(q, y, 5.0), 0, 1), answer(q, y, 5.0)),
    },
    why="The step taken in $q$ itself can leave $[0,1]$: a chart cannot change where a short step goes, but decides "
    "where a long one *can* go.",
)  # fmt: skip
def through_the_logit(q, y, learning_rate):
    """Return the new q, for the number q, the fraction y of heads and η."""
    g, C = q - y, y * (q - 1) ** 2 + (1 - y) * q**2
    s = jnp.log(q / (1 - q)) - learning_rate * g / C
    return 1 / (1 + jnp.exp(-s))


def _damped(rng, size):
    return *_there(rng, size), positive(rng, 0.3, 3), positive(rng, 0.1, 1)


def _solved(g, C, J, damping, eta, added):
    return -eta * jnp.linalg.solve(J.T @ C @ J + added, J.T @ g)


@exercise(
    2, "Your code computes in $\\psi$. Damp it so that the step, carried to $\\theta$ as $J\\Delta\\psi$, is "
    "$-\\eta\\,(C+\\varepsilon I)^{-1}g$: nothing leaks. Return the step *in* $\\psi$.",
    ("Which matrix of ψ does (C + εI) become?",
     "Every matrix that measures a step turns into Jᵀ(·)J, and so does the identity.",
     "Jᵀ(C + εI)J = JᵀCJ + εJᵀJ."),
    _damped,
    parts=lambda *given: (*given, partial(_solved, *given)),
    mistakes=lambda g, C, J, damping, learning_rate, solved: {
        "This is what leaks: εI in ψ is another damping than εI in θ.": solved(damping * jnp.eye(len(g))),
        "JJᵀ lives on the side of θ. In ψ the identity of θ is JᵀJ.": solved(damping * J @ J.T),
        "One J is missing: the identity of θ turns into JᵀJ.": solved(damping * J),
        "The damping is missing.": solved(0),
        "The right step, but carried to θ already: the step in ψ is asked for.": J @ solved(damping * J.T @ J),
        "The gradient is still that of θ: in ψ it is Jᵀg.":
            -learning_rate * jnp.linalg.solve(J.T @ (C + damping * jnp.eye(len(g))) @ J, g),
        "Ascent: the step must go against g.": -solved(damping * J.T @ J),
        "This is the inverse of what is needed: ε‖Δθ‖² = εΔψᵀJᵀJΔψ.":
            solved(damping * jnp.linalg.inv(J.T @ J)),
    },
)  # fmt: skip
def repaired_step(g, C, J, damping, learning_rate):
    """Return Δψ (p,) such that JΔψ is the damped step in θ, for g (p,), C, J (p, p)."""
    metric = J.T @ C @ J + damping * J.T @ J
    return -learning_rate * jnp.linalg.solve(metric, J.T @ g)


def _whitens(J, C):
    C = np.asarray(C, float)
    J = readable(J, len(C), "p or more")
    off = np.abs(J @ J.T @ C - np.eye(len(C))).max()
    return (
        bool(off < 5e-3) or f"descent in ψ moves θ by −ηJJᵀg, and JJᵀC differs from the identity by {off:.2g}"
    )


def _power_of(C, power):
    values, V = jnp.linalg.eigh(C)
    return V * values**power @ V.T


@exercise(
    3, "In which coordinates is plain gradient descent the empirical-Fisher step? Find a $J$ such that descent in "
    "$\\psi$, $\\Delta\\psi=-\\eta J^\\top g$, moves $\\theta$ by $-\\eta\\,C^{-1}g$, for every $g$.",
    ("Carry Δψ = −ηJᵀg to θ: which matrix stands before g?",
     "J Jᵀ = C⁻¹ is asked for. There are many such J: you need one kind of square root of C⁻¹.",
     "If C = LLᵀ (jnp.linalg.cholesky), then C⁻¹ = L⁻ᵀL⁻¹. Or take the eigenvectors of C, with μ to the power −½."),
    lambda rng, size: (_there(rng, size)[1],),
    mistakes=lambda C: {
        "Carried to θ, this makes −ηC⁻²g: J is used twice, so it must be a square root of C⁻¹.": jnp.linalg.inv(C),
        "Upside down: JJᵀ is C here, and not its inverse.": jnp.linalg.cholesky(C),
        "Upside down: this is the root of C, not of its inverse.": _power_of(C, 0.5),
        "Transpose it: with C = LLᵀ, L⁻¹L⁻ᵀ is not C⁻¹. It is L⁻ᵀL⁻¹.": jnp.linalg.inv(jnp.linalg.cholesky(C)),
        "This is C itself: descent would move θ by −ηC²g.": C,
        "Only the diagonal: that rescales each parameter by itself.": jnp.diag(1 / jnp.sqrt(jnp.diag(C))),
    },
    accepts=_whitens,
    why="In these coordinates $J^\\top CJ=I$: every direction costs alike, and the ellipse of notebook 03 is a "
    "circle. To precondition *is* to change coordinates; the update chooses new ones at every $\\theta$.",
)  # fmt: skip
def where_descent_is_enough(C):
    """Return J (p, p) with −ηJJᵀg = −ηC⁻¹g for every g, for an invertible C (p, p)."""
    L = jnp.linalg.cholesky(C)
    return jnp.linalg.inv(L).T
