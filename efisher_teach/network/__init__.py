"""The engine for real networks: the same step without ever forming G or C. The course can be followed without it.

It may import `core` and `errors`; optax is imported in one module only, and nothing here knows of figures.
Begin with `update.py`; `gram.py` says where the speed comes from, `trace.py` and `strategies.py` how.
"""
