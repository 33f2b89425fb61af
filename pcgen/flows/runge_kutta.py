"""Explicit Runge–Kutta steps over the unit of time: equal ones, or as long as a tolerance allows.

Gradients go through the steps (discretise, then optimise): of accepted ones only, and never through the choice of their
lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.flows.tape import State, Tape, Velocity

__all__ = ["ADAPTIVE", "FIXED", "Tableau", "adaptive_steps", "fixed_steps"]

LONGEST_FIRST_STEP = 0.5  # the tolerance decides about the rest; a rejected step costs no gradient


class Tableau(NamedTuple):
    """Butcher's tableau of an explicit method, with the first stage at the step's start."""

    nodes: tuple[float, ...]  # c of the second stage and on
    stages: tuple[tuple[float, ...], ...]  # a of the second stage and on
    weights: tuple[float, ...]  # b
    error: tuple[float, ...] = ()  # b − b̂ of an embedded pair
    order: int = 0  # of an embedded pair: error ~ step^order


FIXED = {
    "euler": Tableau((), (), (1,)),
    "midpoint": Tableau((1 / 2,), ((1 / 2,),), (0, 1)),
    "heun2": Tableau((1,), ((1,),), (1 / 2, 1 / 2)),
    "heun3": Tableau((1 / 3, 2 / 3), ((1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    # Kutta's 3/8 rule, which torchdiffeq calls rk4.
    "rk4": Tableau((1 / 3, 2 / 3, 1), ((1 / 3,), (-1 / 3, 1), (1, -1, 1)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
}

# Pairs whose last stage is the next step's first ("first same as last").
ADAPTIVE = {
    "bosh3": Tableau(  # Bogacki & Shampine 1989
        (1 / 2, 3 / 4, 1),
        ((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        (2 / 9, 1 / 3, 4 / 9, 0),
        (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        3,
    ),
    "dopri5": Tableau(  # Dormand & Prince 1980
        (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        5,
    ),
}


def _combine(base: Tensor | None, slopes: Sequence[Tensor], factors: Sequence[float], h: float) -> Tensor:
    """base + h Σ factor·slope."""
    terms = [(factor * h, slope) for factor, slope in zip(factors, slopes) if factor]
    out = base
    for factor, slope in terms:
        out = slope * factor if out is None else torch.add(out, slope, alpha=factor)
    return out


def _step(
    velocity: Velocity, method: Tableau, t: float, h: float, state: State, first: State | None
) -> tuple[State, list[State]]:
    """The state after one step and all slopes on the way, of which the first may be known."""
    slopes = [velocity(state[0].new_full((), t), state) if first is None else first]
    for node, factors in zip(method.nodes, method.stages):
        inner = tuple(_combine(y, ks, factors, h) for y, *ks in zip(state, *slopes))
        slopes.append(velocity(state[0].new_full((), t + node * h), inner))
    if method.error:  # first same as last: the last inner state is the result
        return inner, slopes
    return tuple(_combine(y, ks, method.weights, h) for y, *ks in zip(state, *slopes)), slopes


def fixed_steps(velocity: Velocity, state: State, method: str, steps: int, reverse: bool) -> State:
    """Equal steps from 0 to 1, or from 1 to 0; no synchronisation with a device between them."""
    tape = Tape()
    h = -1 / steps if reverse else 1 / steps
    for i in range(steps):
        t = 1 - i / steps if reverse else i / steps
        state, _ = tape.run(_step, velocity, FIXED[method], t, h, state, None)
        tape.keep()
    return state


def adaptive_steps(
    velocity: Velocity,
    state: State,
    method: str,
    tolerance: Callable[[Tensor, Tensor], Tensor],
    norm: Callable[[State], Tensor],
    most_steps: int,
    reverse: bool,
) -> State:
    """Steps from 0 to 1, or from 1 to 0, each with ``norm(error / tolerance(before, after))`` at most 1.

    What is left is divided into equal steps of no more than the best length, so that the last one is not a crumb.

    Raises:
        ArithmeticError: more than ``most_steps`` steps were tried, or a step fell to nothing.
    """
    tape, tableau = Tape(), ADAPTIVE[method]
    sign, start = (-1, 1.0) if reverse else (1, 0.0)
    done, length = 0.0, LONGEST_FIRST_STEP
    first = velocity(state[0].new_full((), start), state)
    for _ in range(most_steps):
        last = done + length > 1 - 1e-12
        t, h = start + sign * done, sign * length
        after, slopes = tape.run(_step, velocity, tableau, t, h, state, first)
        with torch.no_grad():
            errors = (_combine(None, ks, tableau.error, length) for ks in zip(*slopes))
            ratio = float(norm(tuple(e / tolerance(a, b) for e, a, b in zip(errors, state, after))))
        # Hairer, Nørsett & Wanner 1993, II.4. What is not a number led out of all bounds.
        factor = 0.9 * ratio ** (-1 / tableau.order) if ratio > 0 else 0.0 if math.isnan(ratio) else 10.0
        best = length * min(10.0, max(0.2, factor))
        if ratio <= 1:
            state, first, done = after, slopes[-1], done + length
            tape.keep()
            if last:
                return state
        length = (1 - done) / math.ceil((1 - done) / best)
        if 1 + length == 1:
            raise ArithmeticError(f"its step fell to {length:.1e} at {start + sign * done:.3f} of the way")
    raise ArithmeticError(f"{most_steps} steps did not suffice")
