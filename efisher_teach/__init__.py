"""efisher_teach: what problem do we solve when we precondition with the inverse empirical Fisher?

The mathematics is imported here. What loads matplotlib and ipywidgets, `ef.scenes` and `ef.Explorer`, is imported at
its first use.
"""

from typing import TYPE_CHECKING, Any

from efisher_teach.curvature import empirical_fisher
from efisher_teach.gradients import (
    mean_gradient,
    per_example_gradients,
    per_example_losses,
    weighted_gradient,
)
from efisher_teach.gram import gram
from efisher_teach.problems import (
    Problem,
    breast_cancer,
    descend,
    digits,
    linear_regression,
    logistic_regression,
    mean_loss,
)
from efisher_teach.solve import Spectrum, solve_dual, solve_primal, solve_spectral, spectrum
from efisher_teach.step import Step, damping_path, empirical_fisher_step

if TYPE_CHECKING:
    from efisher_teach import scenes
    from efisher_teach.explorer import Explorer

__version__ = "0.1.0"
__all__ = [
    "Explorer",
    "Problem",
    "Spectrum",
    "Step",
    "breast_cancer",
    "damping_path",
    "descend",
    "digits",
    "empirical_fisher",
    "empirical_fisher_step",
    "gram",
    "linear_regression",
    "logistic_regression",
    "mean_gradient",
    "mean_loss",
    "per_example_gradients",
    "per_example_losses",
    "scenes",
    "solve_dual",
    "solve_primal",
    "solve_spectral",
    "spectrum",
    "weighted_gradient",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "Explorer":
        return importlib.import_module("efisher_teach.explorer").Explorer
    if name == "scenes":
        return importlib.import_module("efisher_teach.scenes")
    raise AttributeError(f"module 'efisher_teach' has no attribute {name!r}")
