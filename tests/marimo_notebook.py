"""A marimo notebook, for test_marimo.py: an explorer with controls, and one of marimo's own sliders."""

import marimo  # pyright: ignore[reportMissingImports]

app = marimo.App()


@app.cell
def _():
    import ipywidgets

    import efisher_teach as ef

    def scene(budget, steps):
        problem = ef.descend(
            ef.breast_cancer(("mean radius", "worst radius")), steps=steps, learning_rate=0.5
        )
        return ef.scenes.the_best_step(problem, budget=budget)

    budget = ipywidgets.FloatSlider(0.01, min=0.005, max=0.05, step=0.005, description="c")
    steps = ipywidgets.Dropdown(options=[("a few", 6), ("many", 60)], description="steps before")
    explorer = ef.Explorer(scene, budget=budget, steps=steps)
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
