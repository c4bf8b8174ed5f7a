"""A marimo notebook, for test_marimo.py: an explorer with controls, and one of marimo's own sliders."""

import marimo  # pyright: ignore[reportMissingImports]

app = marimo.App()


@app.cell
def _():
    import ipywidgets
    from frontend import scene

    import efisher_teach as ef

    budget = ipywidgets.FloatSlider(0.01, min=0.005, max=0.05, step=0.005, description="c")
    top = ipywidgets.Dropdown(options=[("near", 0.3), ("far", 0.6)], description="view")
    explorer = ef.Explorer(scene, budget=budget, top=top)
    explorer  # noqa: B018  # what a cell shows
    return (explorer,)


@app.cell
def _():
    import marimo as mo

    c = mo.ui.slider(0.005, 0.04, 0.005, value=0.01, label="c, by marimo")
    c  # noqa: B018
    return (c,)


@app.cell
def _(c, explorer):
    explorer.restore(budget=c.value)


if __name__ == "__main__":
    app.run()
