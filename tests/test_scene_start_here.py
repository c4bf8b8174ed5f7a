"""Start here, over the whole table: each step against a solve in float64, and what the first guess is about."""

import gallery
import numpy as np
from gallery import agree

case = gallery.looks("start_here", "start_here, round")


def test_steps_of_one_cost_from_undamped_to_along_the_gradient(case):
    G, c, arrays = case.G, case.budget, case.arrays
    values = case.scene.axes[0].values
    directions = [np.linalg.solve(case.C + epsilon * np.eye(2), case.g) for epsilon in values]
    steps = np.array([gallery.spend(G, u, c) for u in directions])
    undamped, descent = (gallery.spend(G, u, c) for u in (np.linalg.solve(case.C, case.g), case.g))
    lengths, (longest, shortest) = np.linalg.norm(steps, axis=1), np.linalg.norm([undamped, descent], axis=1)
    agree(arrays, atol=2e-4, step=np.stack([0 * steps, steps], axis=1))
    agree(arrays, atol=2e-4, undamped=[[0, 0], undamped], descent=[[0, 0], descent])
    agree(arrays, rtol=1e-3, length=lengths, longest=longest, shortest=shortest, cost=np.sqrt(c))
    away = [abs(gallery.turned(descent, step)) for step in (*steps, undamped)]
    agree(arrays, atol=0.05, turn=away[:-1], widest=away[-1])
    np.testing.assert_allclose(gallery.cost(G, arrays["ellipse"]), c, rtol=1e-3)
    reach = case.view["reach"]
    assert (abs(arrays["ellipse"]) <= reach / 1.09).all()
    assert reach[0] / reach[1] == np.float32(1.4)  # one scale on both axes
    # What 00 asks for a guess about: the step turns towards −g and gets shorter; it ends near both limits.
    assert (np.diff(arrays["length"]) <= 1e-6).all()
    assert (np.diff(arrays["turn"]) <= 1e-2).all()
    np.testing.assert_allclose(arrays["length"][[0, -1]], [longest, shortest], rtol=5e-3)
