"""Reflow (Liu, Gong & Liu 2022, arXiv 2209.03003): straighten a point flow by training it on pairs of its own making.

A trained flow leads each noise point y of a shape to one point x. Straight paths between such pairs cross less than
those of any other pairing of noise and data, so the flow that is trained on them has straighter paths, and the same
clouds at the ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pcgen.flows import SolverConfig
from pcgen.models.draws import Generators
from pcgen.models.inference import Progress, at_least_one, evaluating, shapes_per_solve
from pcgen.models.objective import Loss, point_matching

if TYPE_CHECKING:
    from pcgen.models.pointflow import PointFlow

__all__ = ["ReflowPairs", "reflow_loss", "reflow_pairs"]


class ReflowPairs(NamedTuple):
    """Noise, and the points that a model's flow leads it to."""

    z: Tensor  # (S, Z) codes
    noise: Tensor  # (S, N, 3)
    points: Tensor  # (S, N, 3) standardised

    def draw(self, shapes: int, points: int, generator: torch.Generator | None = None) -> ReflowPairs:
        """So many pairs of so many shapes, each drawn with replacement; the generator is on the CPU.

        Raises:
            ValueError: a number below one.
        """
        at_least_one(shapes=shapes, points=points)
        i = torch.randint(len(self.z), (shapes, 1), generator=generator)
        j = torch.randint(self.noise.shape[1], (shapes, points), generator=generator)
        return ReflowPairs(self.z[i[:, 0]], self.noise[i, j], self.points[i, j])


def reflow_pairs(
    model: PointFlow,
    z: Any,
    points: int,
    generator: torch.Generator | None = None,
    solver: SolverConfig | None = None,
    progress: Progress | None = None,
) -> ReflowPairs:
    """Pairs (S, points) of noise and what ``model`` makes of it for codes z (S, Z), to train it or a copy on.

    Args:
        generator: of the noise, on the CPU.
        solver: in place of the model's sampler.
        progress: called with (points done, points in all) after each solve.

    Raises:
        ValueError: codes of another size than the model's, or a number below one.

    >>> from pcgen.flows import FlowConfig
    >>> from pcgen.models import ObjectiveConfig, PointFlow, PointFlowConfig
    >>> flow = FlowConfig((16,), train_time=False, norm="none")
    >>> model = PointFlow(PointFlowConfig(8, point_flow=flow, latent_flow=None, objective=ObjectiveConfig()))
    >>> generator = torch.Generator().manual_seed(0)
    >>> pairs = reflow_pairs(model, torch.randn(4, 8, generator=generator), 100, generator)
    >>> loss = reflow_loss(model, pairs.draw(2, 64, generator), generator)
    >>> loss.total.requires_grad, list(loss.terms)
    (True, ['points'])
    """
    at_least_one(points=points)
    solver, together, found = solver or model.config.sampler, shapes_per_solve(points), []
    with evaluating(model):
        z = model._codes(z)
        noise = torch.randn(len(z), points, 3, generator=generator, dtype=torch.float32).to(z)
        for y, codes in zip(noise.split(together), z.split(together)):
            found.append(model.points_from_prior(y, codes, solver))
            if progress:
                progress(sum(map(len, found)) * points, len(z) * points)
    return ReflowPairs(z, noise, torch.cat(found))


def reflow_loss(model: PointFlow, pairs: ReflowPairs, generator: Generators = None) -> Loss:
    """The flow-matching error of the point flow on paths between these pairs, the objective's own with them given.

    Codes are given too: neither the encoder nor the latent flow is trained, so all shapes stay where they are.

    Raises:
        ValueError: the flow has more than one block, or norms that are not fixed (a model trained by likelihood).
    """
    total = point_matching(model, pairs.points, pairs.z, generator, pairs.noise)
    return Loss(total, {"points": total.detach()})
