"""Noise of a training step from one generator, or from one for each shape: then it does not matter who has which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcgen.flows import Trace

__all__ = ["Generators", "ShapeTrace", "drawn"]

Generators = torch.Generator | Sequence[torch.Generator] | None


def drawn(draw: Callable[[int, torch.Generator | None], Tensor], rows: int, generators: Generators) -> Tensor:
    """``draw(rows, generator)``; of several generators, each gives as many rows as the others, joined in their order.

    >>> both = [torch.Generator().manual_seed(i) for i in range(2)]
    >>> alone = torch.rand(3, generator=torch.Generator().manual_seed(1))
    >>> torch.equal(drawn(lambda rows, g: torch.rand(rows, generator=g), 6, both)[3:], alone)
    True
    """
    if generators is None or isinstance(generators, torch.Generator):
        return draw(rows, generators)
    if not generators or rows % len(generators):
        raise ValueError(f"a batch needs one generator, or one for each shape, got {len(generators)} for {rows} rows")
    return torch.cat([draw(rows // len(generators), generator) for generator in generators])


class ShapeTrace(Trace):
    """A trace whose Hutchinson noise comes from ``generator``, one or one for each shape."""

    def directions(self, x: Tensor) -> Tensor | None:
        """Noise like x (B, N, D)."""
        if self.kind == "exact":
            return None
        return drawn(lambda n, g: Trace.directions(self._replace(generator=g), x[:n]), len(x), self.generator)
