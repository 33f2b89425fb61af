"""Whether points belong to a star: how far inside its surface they are, and what they say against it themselves.

The second is the idea of Spherical Mask's radial point migration (Shin et al., CVPR 2024): a star cannot follow a
chair's legs or the floor below, but a point knows more of itself than its place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pcgen.geometry.rays import Rays

__all__ = ["Refinement", "log_ratio"]

BOUND = 0.5  # in log radius: points out to e^½ times the radius of the star can be decided anew


def log_ratio(rays: Rays, log_lengths: Tensor, star: Tensor, relative: Tensor) -> Tensor:
    """(E,) log ρ − log r of points at ``relative`` (E, 3) to the centre of star ``star[e]`` (E,); positive is inside.

    ρ is the interpolated radius of lengths exp(``log_lengths``) (S, n) in the point's direction, a mean with the
    weights of the facet hit. Differentiable in lengths and points. A point at the centre is as deep inside as the type
    can say.

    >>> from pcgen.geometry.rays import icosphere
    >>> log_ratio(icosphere(42), torch.zeros(1, 42), torch.tensor([0]), torch.tensor([[0.0, 0.5, 0.0]])).exp()
    tensor([2.])
    """
    tiny = torch.finfo(relative.dtype).tiny
    facet = rays.facet(relative)
    corners = rays.to(relative.device).faces[facet.index]
    total = facet.weights.sum(1, keepdim=True)
    share = torch.where(total > 0, facet.weights / total.clamp_min(tiny), 1 / 3)
    radius = (share * log_lengths[star[:, None], corners].exp()).sum(1)
    return radius.clamp_min(tiny).log() - relative.square().sum(1).clamp_min(tiny).log() / 2


class Refinement(nn.Module):
    """What moves a star's surface for one point, in log radius, from the features of both and how they lie.

    At first it moves nothing.
    """

    reach = math.exp(BOUND)  # in radii of the star: points farther out cannot belong to it

    def __init__(self, width: int, hidden: int = 32):
        super().__init__()
        self.point = nn.Linear(width, hidden)
        self.star = nn.Linear(width, hidden, bias=False)
        self.place = nn.Linear(8, hidden, bias=False)
        self.hidden = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, points: Tensor, stars: Tensor, star: Tensor, relative: Tensor, vote: Tensor, inside: Tensor
    ) -> Tensor:
        """(E,) corrections of the log ratios ``inside`` (E,) of points to stars.

        Args:
            points: (E, C) features of the points' voxels.
            stars: (S, C) features of the voxels that proposed the stars.
            star: (E,) int64, which star each point is held against.
            relative, vote: (E, 3) the point, and the centre that its voxel votes for, relative to the star's centre,
                in radii of the star.
        """
        place = torch.cat([relative, vote, vote.norm(dim=1, keepdim=True), inside[:, None].clamp(-4, 4)], 1)
        h = silu(self.point(points) + self.star(stars)[star] + self.place(place.clamp(-4, 4)))
        return BOUND * torch.tanh(self.last(silu(self.hidden(h)))[:, 0])
