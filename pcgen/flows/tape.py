"""What the gradients of a solver's steps keep in memory: up to a bound, however many steps there are.

Steps whose tape would not fit are carried out again in the backward pass (Griewank & Walther 2000,
doi:10.1145/347837.347846).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["TAPE_BYTES", "State", "Tape", "Velocity"]

State = tuple[Tensor, ...]
Velocity = Callable[[Tensor, State], State]

TAPE_BYTES = 3 << 28  # of one solve; once full, further steps are recomputed where gradients are taken


class Tape:
    """Runs the steps of one solve, and keeps what their gradients need within bounds."""

    def __init__(self) -> None:
        self._kept = self._last = 0  # bytes: of the steps that count, and of the last one

    def run(self, step: Callable, *arguments: Any) -> Any:
        """``step(*arguments)``, recomputed where its gradients are taken if the tape is full."""
        if not torch.is_grad_enabled():
            return step(*arguments)
        if self._kept + self._last > TAPE_BYTES:
            return checkpoint(step, *arguments, use_reentrant=False, preserve_rng_state=False)
        self._last = 0

        def count(tensor: Tensor) -> Tensor:
            self._last += tensor.nbytes
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            return step(*arguments)

    def keep(self) -> None:
        """The last step counts: it is on the way to the result."""
        self._kept += self._last
