"""Adams and Bashforth's method with two steps: second order for one evaluation a step, the last one being used again.

On straight paths, which coupled noise gives, it errs less than one-step methods at as many evaluations: a fifth to
two thirds of the midpoint's error at eight (docs/results.md).
"""

from __future__ import annotations

from itertools import pairwise

import torch

from pcgen.flows.tape import State, Tape, Velocity

__all__ = ["SPACING", "two_step"]

SPACING = 1.2  # steps end at (i / steps)^1.2, hence are shorter near the data, where paths bend most


def _step(
    velocity: Velocity, t: float, h: float, state: State, before: State | None, ratio: float
) -> tuple[State, State]:
    """The state after one step and the slope at its start, given that of the step before, h / ``ratio`` long."""
    slope = velocity(state[0].new_full((), t), state)
    if before is None:  # Euler's step; one error of second order is no worse than the sum of those that follow
        return tuple(torch.add(y, k, alpha=h) for y, k in zip(state, slope)), slope
    weights = h * (1 + ratio / 2), -h * ratio / 2  # Hairer, Nørsett & Wanner 1993, III.5
    after = (
        torch.add(torch.add(y, k, alpha=weights[0]), last, alpha=weights[1]) for y, k, last in zip(state, slope, before)
    )
    return tuple(after), slope


def two_step(velocity: Velocity, state: State, steps: int, reverse: bool) -> State:
    """``steps`` steps from 0 to 1, or from 1 to 0; no synchronisation with a device between them."""
    tape, slope, length = Tape(), None, 1.0
    ends = [(i / steps) ** SPACING for i in range(steps + 1)]
    if reverse:
        ends.reverse()
    for t, end in pairwise(ends):
        h = end - t
        state, slope = tape.run(_step, velocity, t, h, state, slope, h / length)
        tape.keep()
        length = h
    return state
