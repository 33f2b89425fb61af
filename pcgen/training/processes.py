"""One run in the processes that ``torchrun`` or ``accelerate launch`` started: who does what, and sums over all.

Every process holds the whole model and takes its part of each batch. Gradients are summed in one call after the
backward pass: a PointFlow has 1.6 million weights, too few for overlapping the two to pay.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pcgen.flows.norm import one_batch

__all__ = ["Team", "process_rank"]

ECHO = 2.0  # seconds: torchrun passes on the Ctrl-C that the terminal has sent to every process already


def process_rank() -> int:
    """The number of this process among those that were launched together; 0 for one that nobody launched."""
    return int(os.environ.get("RANK", "0"))


class Team:
    """The processes of a run, of which this is one."""

    def __init__(self, device: str):
        from accelerate import Accelerator

        # Without a GPU accelerate takes launched processes for single ones unless it is told.
        cpu = device == "cpu" or not torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="no")
        self.rank, self.size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self._asked = self._agreed = False

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def stopping(self) -> bool:
        """Whether all stop now: asked for by Ctrl-C, and of several processes agreed on by :meth:`mean`."""
        return self._asked if self.size == 1 else self._agreed

    def one_batch(self, share: float) -> contextlib.AbstractContextManager[None]:
        """A context in which batch statistics are those of all processes' shapes."""
        return contextlib.nullcontext() if self.size == 1 else one_batch(float(share > 0))

    def mean(self, values: Tensor, share: float) -> Tensor:
        """Σ share · values (K,) over the processes; in the same message, whether one of them was asked to stop."""
        if self.size == 1:
            return values
        message = torch.cat([share * values.double(), values.new_tensor([self._asked]).double()])
        torch.distributed.all_reduce(message)
        self._agreed = bool(message[-1] > 0)
        return message[:-1].to(values)

    def backward(self, loss: Tensor, share: float, parameters: Sequence[Tensor]) -> None:
        """Gradients of Σ share · loss over the processes."""
        self.accelerator.backward(loss if self.size == 1 else share * loss)
        if self.size == 1:
            return
        # What the part of one process does not reach, as a head that no object of it asks, another's may.
        reached = torch.tensor([p.grad is not None for p in parameters], device=self.device, dtype=torch.uint8)
        torch.distributed.all_reduce(reached, torch.distributed.ReduceOp.MAX)
        for p, anywhere in zip(parameters, reached.tolist()):
            if anywhere and p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        whole = torch.cat([g.reshape(-1) for g in gradients])
        torch.distributed.all_reduce(whole)
        for gradient, part in zip(gradients, whole.split([g.numel() for g in gradients])):
            gradient.copy_(part.view_as(gradient))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C asks for a stop between steps, where everything is consistent; a second one stops at once."""
        first_at = None

        def ask(number, frame):
            nonlocal first_at
            now = time.monotonic()
            if first_at is not None and (self.size == 1 or now - first_at > ECHO):
                raise KeyboardInterrupt
            first_at = now if first_at is None else first_at
            self._asked = True

        self._asked = self._agreed = False
        try:
            before = signal.signal(signal.SIGINT, ask)
        except ValueError:  # not in the main thread: leave the signal alone
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
