"""Batches and memory: steps of single batches against least squares in float64, in a few states of the table."""

import gallery
import numpy as np
import oracles
import pytest
from gallery import agree

STATES = [(1, 0, 0), (0, 0, 4), (3, 3, 2), (1, 5, 8)]  # places of B, M and ε
case = gallery.looks("batches_and_memory", "batches_and_memory, steps")


def steps_of(case, size, memory, damping):
    """The step of every batch of this size, one after the other; the first hundred left out."""
    batches, keep, eta = case.G[np.asarray(case.scene.data["drawn"])][:, :size], 1 - 1 / memory, 0.1
    average, steps = batches[0].T @ batches[0] / size, [np.zeros(2)]
    for batch in batches:
        if "C" in case.scene.axes[1].label:
            average = keep * average + (1 - keep) * batch.T @ batch / size
            steps.append(-eta * np.linalg.solve(average + damping * np.eye(2), batch.mean(axis=0)))
        else:
            tall = np.vstack([batch / np.sqrt(size), np.sqrt(damping) * np.eye(2)])
            wish = np.r_[np.full(size, -eta / np.sqrt(size)), np.sqrt(damping) * keep * steps[-1]]
            steps.append(np.linalg.lstsq(tall, wish)[0])
    return np.array(steps)[101:]


def missed(G, step):
    return np.sqrt(np.mean((G @ step + 0.1) ** 2)) / 0.1


@pytest.mark.parametrize("state", STATES, ids=str)
def test_steps_are_least_squares_of_their_batch_and_its_memory(case, state):
    (((size, memory, damping), arrays),) = case.states(state)
    steps = steps_of(case, int(size), memory, damping)
    full = -0.1 * np.linalg.solve(case.C + damping * np.eye(2), case.g)
    away = np.linalg.norm(steps[-60:], axis=1)
    inside = away < away.max() / 2  # the farthest are drawn nearer, and the least determined are rounded most
    np.testing.assert_allclose(arrays["cloud"][inside], steps[-60:][inside], rtol=0.02, atol=2e-3)
    drawn, mean = np.asarray(case.scene.data["drawn"])[100:, : int(size)], steps.mean(axis=0)
    all_miss = np.mean([missed(case.G, step) for step in steps])
    own = np.mean([missed(case.G[batch], step) for batch, step in zip(drawn, steps, strict=True)])
    least = missed(case.G, full)
    agree(arrays, rtol=5e-3, atol=2e-3, mean=mean, least=least, all_miss=all_miss, own_misses=own)
    scatter = np.sqrt(np.mean(np.sum((steps - mean) ** 2, axis=1))) / np.linalg.norm(full)
    off = np.linalg.norm(mean - full) / np.linalg.norm(full)
    agree(arrays, rtol=0.02, atol=0.3, off=100 * off, scatter=100 * scatter)


def test_what_the_presets_say(case):
    """One example is served exactly; two nearly, and all fare worse; 64 serve nearly all; a memory helps all."""
    one, two, many, remembered = case.views()
    assert one["own_misses"] < 0.01
    assert two["own_misses"] < 0.03
    assert two["all_miss"] > one["all_miss"] > many["all_miss"]
    assert many["all_miss"] - many["own_misses"] < 0.1
    assert min(one["off"], two["off"], many["off"]) > 5  # the mean of 500 steps is another one
    of_C = "C" in case.scene.axes[1].label
    ((_, without),) = case.states((1, 0, 0) if of_C else (4, 0, 6))
    assert remembered["all_miss"] < without["all_miss"] - 0.15
    assert (remembered["own_misses"] > without["own_misses"]) == of_C  # only then the batch pays


@pytest.mark.parametrize("seed", range(5))
def test_two_examples_serve_the_others_worse_than_one_in_any_draw(case, seed):
    """On average, and beyond what chance does; by the median it is a tie, as the answer of the notebook says."""
    rng, misses = np.random.default_rng(seed), []
    for _ in range(500):
        batch = case.G[rng.permutation(len(case.G))[:2]]
        steps = [-0.1 * oracles.direction(batch[:size], 1e-4) for size in (1, 2)]
        misses.append([missed(case.G, step) for step in steps])
    worse = np.diff(misses, axis=1)
    assert worse.mean() > 3 * worse.std() / np.sqrt(500)
    assert abs(np.diff(np.median(misses, axis=0))) < 0.12
