"""The first answers of the pages without a server, from disk, in a Chromium without a network: `make bench-site`.

For every notebook of `_site/` (`make site`), opened with an empty cache: its size; the time from asking for the page
until its first figure has drawn a first move of its slider; and the same for an explorer alone, by `to_html`. A script
moves the slider, and answers the question before the figure at once: a reader takes longer over it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import sliders  # which also shows the way to tests/lab.py and tests/gallery.py

lab, gallery = sliders.lab, sliders.gallery
SITE = Path(__file__).parents[1] / "_site"

# In the page: answer the questions, move the first slider, and give the milliseconds since the page was asked for.
FIRST_ANSWER = """() => new Promise((done) => {
    const answerAndMove = () => {
      for (const form of document.querySelectorAll(".ef-ask")) {
        form.querySelector("[type=radio]")?.click();
        form.querySelector("button").click();
      }
      const figure = document.querySelector(".ef-page:not([hidden])");
      const root = document.querySelector(".ef-explorer[data-serial]");
      if (!root) return figure?.scrollIntoView(), requestAnimationFrame(answerAndMove);
      const before = root.dataset.state;
      const slider = root.querySelector(".ef-axis input");
      slider.value = slider.valueAsNumber ? 0 : slider.max;
      slider.dispatchEvent(new Event("input"));
      const stopWatch = () =>
        root.dataset.state === before ? requestAnimationFrame(stopWatch) : done(performance.now());
      stopWatch();
    };
    answerAndMove();
  })"""


def first_answer(path: Path) -> float:
    """Seconds from asking for a page to the first answer of its first figure."""
    with lab.browser(offline=True) as page:
        page.goto(path.as_uri(), wait_until="commit")
        return page.evaluate(FIRST_ANSWER) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print("| page | MB | first answer, s (median, slowest) |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        pages = [path for path in sorted(SITE.glob("*.html")) if path.name[0].isdigit()]
        alone = Path(folder) / "an explorer alone.html"
        gallery.explorer("the_best_step").to_html(alone)
        for path in [*pages, alone]:
            times = [first_answer(path) for _ in range(rounds)]
            size = path.stat().st_size / 1e6
            print(f"| {path.stem} | {size:.1f} | {np.median(times):.1f}, {max(times):.1f} |")


if __name__ == "__main__":
    main()
