"""Questions and exercises: what is asked, how an answer is judged, and which mistakes are known by name.

It may import `core` and `network`, and knows nothing of figures or widgets.
Begin with `exercise.py`; `course/` has one file for each notebook, and carries the notebook's name.
"""
