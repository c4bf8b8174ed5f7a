"""efisher_teach: what problem do we solve when we precondition with the inverse empirical Fisher?

The mathematics is imported here. What loads matplotlib and ipywidgets is imported at its first use: `ef.scenes`,
`ef.Explorer`, and the cards of the lessons (`ef.predict`, `ef.check`, `ef.hint` and their like).

Every public name has an example. Before it stand

    import efisher_teach as ef
    import jax, jax.numpy as jnp, numpy as np
    np.set_printoptions(precision=3, suppress=True)
"""

from typing import TYPE_CHECKING, Any

from efisher_teach.core import coordinates, likelihoods
from efisher_teach.core.coordinates import (
    ChartStep,
    Coordinates,
    InvarianceGap,
    invariance_gap,
    jacobian,
    pull_back,
    push_forward,
    step_in,
    trajectory_in,
)
from efisher_teach.core.gradients import (
    loss_changes,
    mean_gradient,
    per_example_gradients,
    per_example_jacobians,
    per_example_losses,
    weighted_gradient,
)
from efisher_teach.core.likelihoods import Likelihood
from efisher_teach.core.matrices import (
    RunningFisher,
    RunningFisherState,
    empirical_fisher,
    empirical_fisher_diagonal,
    fisher,
    gauss_newton,
    generalised_eigenvalues,
    gradient_covariance,
    gram,
    hessian,
    quadratic_form,
    running_fisher,
    squared_batch_gradient,
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
from efisher_teach.core.proof import Ledger, Line, ledger
from efisher_teach.core.solve import (
    Regression,
    Spectrum,
    precondition,
    regress,
    solve_dual,
    solve_gram,
    solve_primal,
    solve_rank_one,
    solve_spectral,
    spectrum,
)
from efisher_teach.core.step import (
    Outcome,
    PreconditionedStep,
    Step,
    TwoBudgetStep,
    damping_path,
    empirical_fisher_step,
    outcome,
    preconditioned_step,
    targeted_step,
    two_budget_step,
)
from efisher_teach.network.gram import Leaf, LossGram, loss_gram
from efisher_teach.network.training import Fit, Trial, fit, tune
from efisher_teach.network.update import (
    OptaxReport,
    Report,
    ScaleByEmpiricalFisherState,
    make_natural_update,
    make_update,
    optax_update,
    scale_by_empirical_fisher,
)

if TYPE_CHECKING:
    from efisher_teach.browser.cards import check, environment, given, guesses, hint, lab_record, predict
    from efisher_teach.browser.explorer import Explorer
    from efisher_teach.figures import scenes

__version__ = "0.1.0"
__all__ = [
    "ChartStep",
    "Coordinates",
    "Explorer",
    "Fit",
    "InvarianceGap",
    "Leaf",
    "Ledger",
    "Likelihood",
    "Line",
    "LossGram",
    "OptaxReport",
    "Outcome",
    "PreconditionedStep",
    "Problem",
    "Regression",
    "Report",
    "RunningFisher",
    "RunningFisherState",
    "ScaleByEmpiricalFisherState",
    "Spectrum",
    "Step",
    "Trial",
    "TwoBudgetStep",
    "breast_cancer",
    "check",
    "coordinates",
    "damping_path",
    "descend",
    "digits",
    "empirical_fisher",
    "empirical_fisher_diagonal",
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
    "hint",
    "invariance_gap",
    "jacobian",
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
    "outcome",
    "per_example_gradients",
    "per_example_jacobians",
    "per_example_losses",
    "precondition",
    "preconditioned_step",
    "predict",
    "pull_back",
    "push_forward",
    "quadratic_form",
    "regress",
    "running_fisher",
    "scale_by_empirical_fisher",
    "scenes",
    "solve_dual",
    "solve_gram",
    "solve_primal",
    "solve_rank_one",
    "solve_spectral",
    "spectrum",
    "squared_batch_gradient",
    "step_in",
    "targeted_step",
    "trajectory_in",
    "tune",
    "two_budget_step",
    "weighted_gradient",
]
LESSON = {"check", "environment", "given", "guesses", "hint", "lab_record", "predict"}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "Explorer":
        return importlib.import_module("efisher_teach.browser.explorer").Explorer
    if name in LESSON:
        return getattr(importlib.import_module("efisher_teach.browser.cards"), name)
    if name == "scenes":
        return importlib.import_module("efisher_teach.figures.scenes")
    raise AttributeError(f"module 'efisher_teach' has no attribute {name!r}")
