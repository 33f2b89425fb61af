"""A function of tensors, recorded as a CUDA graph and replayed: no Python between its kernels, one launch in all.

A solve by a fixed-step method is the same list of kernels each time. One of a few shapes spends more time in Python
than on a GPU; recorded, the next ones do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Replayed", "cuda_graph"]

Function = Callable[..., Tensor]
Record = Callable[[Function, tuple[Tensor, ...]], tuple[Callable[[], None], Tensor]]


def cuda_graph(function: Function, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], None], Tensor]:
    """What carries ``function(*inputs)`` out again, from what ``inputs`` hold then, and where its result will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(*inputs)
    return graph.replay, out


class _Recording(NamedTuple):
    """Of one size of inputs."""

    inputs: tuple[Tensor, ...]  # where the next ones are copied to
    replay: Callable[[], None]
    out: Tensor


class Replayed:
    """``function`` of tensors with no gradient; from the third call with inputs of one size on, by replays.

    The first call is the warm-up that a recording needs. The second is carried out both ways: a recording that fails,
    or that gives anything else, is given up with a warning, and all calls go on as the first. A result of a replay is
    overwritten by the next one.

    >>> def by_hand(function, inputs):  # what a recording is, without a GPU
    ...     out = function(*inputs).clone()
    ...     return lambda: out.copy_(function(*inputs)), out
    >>> double = Replayed(lambda x: 2 * x, record=by_hand)
    >>> [double(torch.tensor(float(i))).item() for i in range(4)]
    [0.0, 2.0, 4.0, 6.0]
    """

    def __init__(self, function: Function, record: Record = cuda_graph):
        self._function, self._record = function, record
        self._seen: dict[tuple, _Recording | None] = {}
        self._given_up = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        size = tuple((x.shape, x.dtype, x.device) for x in inputs)
        if self._given_up or size not in self._seen:
            self._seen[size] = None
            return self._function(*inputs)
        recording = self._seen[size]
        if recording is None:
            return self._recorded(size, inputs)
        for place, x in zip(recording.inputs, inputs):
            place.copy_(x)
        recording.replay()
        return recording.out

    def _recorded(self, size: tuple, inputs: tuple[Tensor, ...]) -> Tensor:
        """The result by the function itself; it is recorded, and believed if a replay says the same."""
        want = self._function(*inputs)
        try:
            places = tuple(x.clone() for x in inputs)
            replay, out = self._record(self._function, places)
            replay()
            # Kernels may be others for a library that is recorded: equal up to rounding of what is summed.
            if not torch.allclose(out, want, rtol=1e-3, atol=1e-4 * float(want.abs().max())):
                raise RuntimeError(f"it is off by {float((out - want).abs().max()):.2g}")
            self._seen[size] = _Recording(places, replay, out)
        except RuntimeError as error:
            self._given_up = True
            warnings.warn(f"no CUDA graph, all goes on step by step: {error}", RuntimeWarning, stacklevel=3)
        return want
