"""The live half: explorers, cards, and pages without a server. It brings figures and lessons to a reader.

It may import every other room, ipywidgets and anywidget, and does no mathematics of its own.
Begin with `explorer.py` and `cards.py`; `packing.py` says what is sent, and `static/` is the browser's half.
"""
