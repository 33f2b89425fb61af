"""Votes on votes: what the voxels of one object say is gathered where they vote, and each is told.

A voxel at the end of a long desk knows little of the other end. But their first votes land near each other, however far
they are apart, and a U-shape over the voxels of that space brings them together (after VoteNet, Qi et al., ICCV 2019,
which groups votes; here every voxel hears what came of it and votes again).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pcgen import ops
from pcgen.models.backbone import Backbone, BackboneConfig
from pcgen.models.sparse import voxel_pyramid

__all__ = ["Revoting"]

CELLS = 0.5  # of a usual radius, the edge of the finest cells of votes
WIDTHS = (1, 1.5, 2)  # of the channels, at each size of cells
LEAST = 1e-3  # weight of a cell below which its means are drawn to 0


class Revoting(nn.Module):
    """Features of voxels that know what others who vote for the same place have seen.

    >>> voxels = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    >>> Revoting(8, scale=0.5)(torch.ones(50, 8), voxels, voxels, torch.ones(50), torch.tensor([0, 50])).shape
    torch.Size([50, 8])
    """

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.scale = scale
        widths = tuple(int(width * share) for share in WIDTHS)
        self.backbone = Backbone(width + 4, BackboneConfig(voxel=CELLS * scale, widths=widths, blocks=1))
        self.merge = nn.Sequential(nn.Linear(2 * width + 6, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, features: Tensor, positions: Tensor, votes: Tensor, weight: Tensor, bounds: Tensor) -> Tensor:
        """Features (V, C) of voxels from their own.

        Args:
            positions, votes: (V, 3) in metres, the voxels and the places that they vote for.
            weight: (V,) how much each has to say, 0 … 1.
            bounds: (B + 1,) int64, the first voxel of each cloud.
        """
        cell, levels = voxel_pyramid(votes, self.backbone.voxel, self.backbone.depth, bounds)
        said = torch.cat([features, positions, votes, torch.ones_like(weight[:, None])], 1) * weight[:, None]
        total = ops.segment_reduce(said, cell, len(levels[0].cells)).value
        mean = total[:, :-1] / total[:, -1:].clamp_min(LEAST)
        seen, middle, target = mean.split([features.shape[1], 3, 3], 1)
        h = self.backbone(levels, torch.cat([seen, (middle - target) / self.scale, total[:, -1:].log1p()], 1))
        place = torch.cat([positions - middle[cell], votes - target[cell]], 1) / self.scale
        return features + self.merge(torch.cat([features, h[cell], place.clamp(-8, 8)], 1))
