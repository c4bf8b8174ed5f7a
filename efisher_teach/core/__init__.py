"""The mathematics of the course, for one evening's reading: from a loss of one example to the step, and its proof.

It may import `errors`, JAX and NumPy, and knows nothing of networks, figures or widgets.
Begin with `step.py`, whose first function is the formula; `problems.py` and `gradients.py` say what goes into it.
"""
