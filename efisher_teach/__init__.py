"""efisher_teach: what problem do we solve when we precondition with the inverse empirical Fisher?

The mathematics is imported here. What loads matplotlib and ipywidgets is imported at its first use: `ef.scenes`,
`ef.Explorer`, and the cards of the lessons (`ef.predict`, `ef.check` and their like).

Every public name has an example. Each of them starts from

    import efisher_teach as ef
    import jax, jax.numpy as jnp, numpy as np
    np.set_printoptions(precision=3, suppress=True)
"""

from typing import TYPE_CHECKING, Any

from efisher_teach.core import coordinates, likelihoods
from efisher_teach.core.chart_step import invariance_gap, step_in
from efisher_teach.core.coordinates import pull_back, push_forward
from efisher_teach.core.gradients import (
    loss_changes,
    mean_gradient,
    per_example_gradients,
    per_example_losses,
    weighted_gradient,
)
from efisher_teach.core.matrices import (
    empirical_fisher,
    fisher,
    gauss_newton,
    generalised_eigenvalues,
    gradient_covariance,
    gram,
    hessian,
    quadratic_form,
)
from efisher_teach.core.problems import (
    Problem,
    breast_cancer,
    descend,
    digits,
    linear_regression,
    logistic_regression,
    mean_loss,
)
from efisher_teach.core.proof import ledger
from efisher_teach.core.solve import solve_dual, solve_gram, solve_primal
from efisher_teach.core.step import damping_path, empirical_fisher_step, targeted_step
from efisher_teach.core.two_budgets import two_budget_step
from efisher_teach.network.gram import loss_gram
from efisher_teach.network.natural import make_natural_update
from efisher_teach.network.optax_form import optax_update, scale_by_empirical_fisher
from efisher_teach.network.training import fit, tune
from efisher_teach.network.update import make_update

if TYPE_CHECKING:
    from efisher_teach.browser.cards import check, given, guesses, lab_record, predict
    from efisher_teach.browser.environment import environment
    from efisher_teach.browser.explorer import Explorer
    from efisher_teach.figures import scenes

__version__ = "0.1.0"
__all__ = [
    "Explorer",
    "Problem",
    "breast_cancer",
    "check",
    "coordinates",
    "damping_path",
    "descend",
    "digits",
    "empirical_fisher",
    "empirical_fisher_step",
    "environment",
    "fisher",
    "fit",
    "gauss_newton",
    "generalised_eigenvalues",
    "given",
    "gradient_covariance",
    "gram",
    "guesses",
    "hessian",
    "invariance_gap",
    "lab_record",
    "ledger",
    "likelihoods",
    "linear_regression",
    "logistic_regression",
    "loss_changes",
    "loss_gram",
    "make_natural_update",
    "make_update",
    "mean_gradient",
    "mean_loss",
    "optax_update",
    "per_example_gradients",
    "per_example_losses",
    "predict",
    "pull_back",
    "push_forward",
    "quadratic_form",
    "scale_by_empirical_fisher",
    "scenes",
    "solve_dual",
    "solve_gram",
    "solve_primal",
    "step_in",
    "targeted_step",
    "tune",
    "two_budget_step",
    "weighted_gradient",
]
LATE: dict[str, str] = dict.fromkeys(("check", "given", "guesses", "lab_record", "predict"), "cards")
LATE |= {"Explorer": "explorer", "environment": "environment"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from efisher_teach.unswept import unswept

    with unswept():
        if name == "scenes":
            return import_module("efisher_teach.figures.scenes")
        if name in LATE:
            return getattr(import_module(f"efisher_teach.browser.{LATE[name]}"), name)
    raise AttributeError(f"module 'efisher_teach' has no attribute {name!r}")
