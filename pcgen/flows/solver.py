"""One ODE solve: settings, gradients, and a count of what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torchdiffeq
from torch import Tensor

from pcgen.config import Settings
from pcgen.flows.multistep import two_step
from pcgen.flows.runge_kutta import ADAPTIVE, FIXED, adaptive_steps, fixed_steps
from pcgen.flows.tape import State, Velocity

__all__ = ["FIXED_STEP", "Evaluations", "SolverConfig", "solve"]

MOST_STEPS = 10_000  # of an adaptive method: a flow that needs more has diverged, and would be solved for hours
FIXED_STEP = (*FIXED, "ab2")


@dataclass(frozen=True)
class SolverConfig(Settings):
    """How a flow is integrated over its unit of time."""

    method: Literal[
        "dopri5",
        "dopri8",
        "bosh3",
        "fehlberg2",  # errs by some 80 times the tolerance: it sees a small part of its error
        "adaptive_heun",
        "euler",
        "midpoint",
        "heun2",
        "heun3",
        "rk4",
        "ab2",  # two steps' slopes, one evaluation a step, see `multistep`
    ] = "dopri5"
    atol: float = 1e-5  # absolute and relative tolerance of adaptive methods
    rtol: float = 1e-5
    error_norm: Literal["max", "rms"] = "max"  # adaptive: every value keeps the tolerance, or their root mean square
    steps: int = 20  # of fixed-step methods, equal ones but for ab2
    adjoint: bool = False  # gradients by the adjoint equation, else through the solver's steps, in bounded memory
    precision: Literal["float32", "bfloat16"] = "float32"  # sampling: of the products between hidden layers

    def __post_init__(self):
        super().__post_init__()
        if not (self.atol > 0 and self.rtol > 0):
            raise ValueError(f"tolerances must be positive, got atol={self.atol}, rtol={self.rtol}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.adjoint and self.method == "ab2":
            raise ValueError("the adjoint equation needs a one-step method, got 'ab2'")


class Evaluations:
    """How often one solve evaluated its velocity: ``forward``, and ``backward`` once gradients were taken."""

    def __init__(self) -> None:
        self.forward = 0
        self._total = 0

    @property
    def backward(self) -> int:
        return self._total - self.forward

    def __repr__(self) -> str:
        return f"Evaluations(forward={self.forward}, backward={self.backward})"


def solve(
    velocity: Velocity,
    state: State,
    config: SolverConfig,
    *,
    reverse: bool = False,
    parameters: tuple[Tensor, ...] = (),
    controlled: int | None = None,
) -> tuple[State, Evaluations]:
    """Carry ``state`` over the unit of time, from 0 to 1 or, reversed, from 1 to 0.

    Args:
        velocity: (t (), state) → time derivative of the state.
        state: tensors of any shapes.
        parameters: all tensors that the velocity depends on and gradients are wanted for; the adjoint method
            sees no others.
        controlled: how many of the state's tensors, the first ones, adaptive steps keep the tolerance for; None: all.

    Returns:
        the final state, and the evaluations it took (an object that goes on counting in the backward pass).

    Raises:
        ArithmeticError: the solver's step fell to nothing, from a velocity that is not finite or is too stiff.
    """
    evaluations = Evaluations()

    def counted(t: Tensor, y: State) -> State:
        evaluations._total += 1
        return velocity(t, y)

    def norm(values: State) -> Tensor:
        each = (v.abs().max() if config.error_norm == "max" else v.square().mean().sqrt() for v in values[:controlled])
        return torch.stack(list(each)).max()

    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (*state, *parameters))
    try:
        if config.method == "ab2":
            state = two_step(counted, state, config.steps, reverse)
        elif (config.adjoint and needs_gradient) or config.method not in (*FIXED, *ADAPTIVE):
            wanted = tuple(p for p in parameters if p.requires_grad) if config.adjoint and needs_gradient else None
            state = _by_torchdiffeq(counted, state, config, reverse, norm, wanted)
        elif config.method in FIXED:
            state = fixed_steps(counted, state, config.method, config.steps, reverse)
        else:

            def tolerance(before: Tensor, after: Tensor) -> Tensor:
                return config.atol + config.rtol * torch.maximum(before.abs(), after.abs())

            state = adaptive_steps(counted, state, config.method, tolerance, norm, MOST_STEPS, reverse)
    except (ArithmeticError, AssertionError) as error:
        calls = evaluations._total
        raise ArithmeticError(f"the {config.method} solver gave up after {calls} evaluations: {error}") from None
    evaluations.forward = evaluations._total
    return state, evaluations


def _by_torchdiffeq(
    velocity: Velocity,
    state: State,
    config: SolverConfig,
    reverse: bool,
    norm: Callable[[State], Tensor],
    parameters: tuple[Tensor, ...] | None,
) -> State:
    """By the adjoint method with gradients for ``parameters``, or through the steps where these are None."""
    times = state[0].new_tensor([1.0, 0.0] if reverse else [0.0, 1.0])
    if config.method in FIXED:
        # The grid itself, not a step size whose rounding can add a step of no length.
        options = {
            "grid_constructor": lambda f, y, t: torch.linspace(
                float(t[0]), float(t[-1]), config.steps + 1, dtype=t.dtype, device=t.device
            )
        }
        backwards = options
    else:
        # Land on the end. Left alone, torchdiffeq steps past it and interpolates, which errs more than the steps do.
        options = {"step_t": times[1:], "max_num_steps": MOST_STEPS, "norm": norm}
        # "seminorm": parameters' adjoints are integrals, not states, and need no say in the step size
        # (Kidger et al. 2021, arXiv 2009.09457).
        backwards = {**options, "norm": "seminorm", "step_t": times[:1]}
    arguments = {"atol": config.atol, "rtol": config.rtol, "method": config.method, "options": options}
    if parameters is None:
        path = torchdiffeq.odeint(velocity, state, times, **arguments)
    else:
        arguments |= {"adjoint_params": parameters, "adjoint_options": backwards}
        path = torchdiffeq.odeint_adjoint(velocity, state, times, **arguments)
    return tuple(values[-1] for values in path)
