"""One ODE solve by torchdiffeq: settings, gradients, and a count of what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torchdiffeq
from torch import Tensor

from pcgen.config import Settings

__all__ = ["Evaluations", "SolverConfig", "solve"]

MOST_STEPS = 10_000  # of an adaptive method: a flow that needs more has diverged, and would be solved for hours
FIXED_STEP = ("euler", "midpoint", "heun2", "heun3", "rk4")


@dataclass(frozen=True)
class SolverConfig(Settings):
    """How a flow is integrated over its unit of time."""

    method: Literal[
        "dopri5",
        "dopri8",
        "bosh3",
        "fehlberg2",
        "adaptive_heun",
        "euler",
        "midpoint",
        "heun2",
        "heun3",
        "rk4",
    ] = "dopri5"
    atol: float = 1e-5  # absolute and relative tolerance of adaptive methods
    rtol: float = 1e-5
    error_norm: Literal["max", "rms"] = "max"  # adaptive: every value keeps the tolerance, or their root mean square
    steps: int = 20  # number of equal steps of fixed-step methods
    adjoint: bool = True  # gradients by the adjoint equation (constant memory), else through the solver's steps

    def __post_init__(self):
        super().__post_init__()
        if not (self.atol > 0 and self.rtol > 0):
            raise ValueError(f"tolerances must be positive, got atol={self.atol}, rtol={self.rtol}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


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
    velocity: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]],
    state: tuple[Tensor, ...],
    config: SolverConfig,
    *,
    reverse: bool = False,
    parameters: tuple[Tensor, ...] = (),
) -> tuple[tuple[Tensor, ...], Evaluations]:
    """Carry ``state`` over the unit of time, from 0 to 1 or, reversed, from 1 to 0.

    Args:
        velocity: (t (), state) → time derivative of the state.
        state: tensors of any shapes.
        parameters: all tensors that the velocity depends on and gradients are wanted for; the adjoint method
            sees no others.

    Returns:
        the final state, and the evaluations it took (an object that goes on counting in the backward pass).

    Raises:
        ArithmeticError: the solver's step fell to nothing, from a velocity that is not finite or is too stiff.
    """
    evaluations = Evaluations()

    def counted(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        evaluations._total += 1
        return velocity(t, y)

    times = state[0].new_tensor([1.0, 0.0] if reverse else [0.0, 1.0])
    options: dict = {}
    if config.method in FIXED_STEP:
        # The grid itself, not a step size whose rounding can add a step of no length.
        options["grid_constructor"] = lambda f, y, t: torch.linspace(
            float(t[0]), float(t[-1]), config.steps + 1, dtype=t.dtype, device=t.device
        )
    else:
        # Land on the end. Left alone, torchdiffeq steps past it and interpolates, which errs more than the steps do.
        options |= {"step_t": times[1:], "max_num_steps": MOST_STEPS}
        if config.error_norm == "max":
            options["norm"] = _max_norm
    arguments = {"atol": config.atol, "rtol": config.rtol, "method": config.method, "options": options}
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (*state, *parameters))
    try:
        if config.adjoint and needs_gradient:
            # "seminorm": parameters' adjoints are integrals, not states, and need no say in the step size
            # (Kidger et al. 2021, arXiv 2009.09457).
            adjoint_options = options
            if config.method not in FIXED_STEP:
                adjoint_options = {**options, "norm": "seminorm", "step_t": times[:1]}
            path = torchdiffeq.odeint_adjoint(
                counted,
                state,
                times,
                adjoint_params=tuple(p for p in parameters if p.requires_grad),
                adjoint_options=adjoint_options,
                **arguments,
            )
        else:
            path = torchdiffeq.odeint(counted, state, times, **arguments)
    except AssertionError as error:
        calls = evaluations._total
        raise ArithmeticError(f"the {config.method} solver gave up after {calls} evaluations: {error}") from None
    evaluations.forward = evaluations._total
    return tuple(values[-1] for values in path), evaluations


def _max_norm(state: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([values.abs().max() for values in state]).max()
