"""Figures as functions: a scene turns a state into arrays; one table of them feeds picture, words and browser.

It may import `core`, `network` and matplotlib, and knows nothing of kernels, browsers or lessons.
Begin with `scene.py`, which says what a scene is, and `scenes/the_best_step.py`, which is the model of one.
"""
