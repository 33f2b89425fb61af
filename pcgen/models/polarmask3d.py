"""PolarMask in three dimensions: every voxel votes for a centre, and the votes near a centre say its star.

PolarMask (Xie et al., CVPR 2020, arXiv 1909.13226) finds objects in images as a centre and ray lengths. A surface's
cloud has no point near the centre of its object, so here the voxels are first moved by a predicted offset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from pcgen import ops
from pcgen.config import Settings
from pcgen.geometry.rays import rays
from pcgen.models.backbone import Backbone, BackboneConfig
from pcgen.models.instances import DecodingConfig, Instances, predict_instances
from pcgen.models.objective import Loss
from pcgen.models.point_features import FeatureName, Up, feature_columns, feature_width
from pcgen.models.polar_loss import PolarLossConfig, polar_loss
from pcgen.models.polar_targets import PolarBatch
from pcgen.models.refinement import Refinement, log_ratio
from pcgen.models.revoting import Revoting
from pcgen.models.sparse import surroundings, voxel_pyramid
from pcgen.models.turning import Which

__all__ = ["Membership", "PolarMask3D", "PolarMask3DConfig", "StarPrediction", "VoxelPrediction"]

RANGE = 5.0  # lengths are within e^±5 of the usual radius, so that nothing overflows
PRIOR = 0.1  # probability of each class before anything is learned (focal loss, Lin et al., section 4.1)


@dataclass(frozen=True)
class PolarMask3DConfig(Settings):
    """What a :class:`PolarMask3D` sees and says."""

    classes: int = 1  # of objects; the background is no class
    rays: str = "icosphere-42"  # name of a set of directions
    scale: float = 0.4  # m, a usual radius of an object: offsets and lengths begin there
    features: tuple[FeatureName, ...] = ("height",)  # of points, besides their places
    up: Up = "z"  # along which heights are measured
    turns: Which = "upright"  # which of the rays' own rotations leave scenes as likely: none, those about up, all
    sphere: bool = False  # all rays of a star are as long: what is left without the shape of objects
    revote: bool = False  # voxels vote again when they have heard what others say who voted for the same place
    residual: bool = True  # points near a star's surface are decided anew, each by itself
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    loss: PolarLossConfig = field(default_factory=PolarLossConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.classes < 1 or not 0 < self.scale < float("inf"):
            raise ValueError(f"classes and scale must be positive, got {self.classes} and {self.scale}")
        known = get_args(FeatureName)
        if len(set(self.features)) < len(self.features) or not set(self.features) <= set(known):
            raise ValueError(f"features must be among {', '.join(known)}, each once, got {self.features}")
        if rays(self.rays).dimension != 3:
            raise ValueError(f"rays must be directions in space, got {self.rays!r}")


class VoxelPrediction(NamedTuple):
    """What the network says of every voxel that holds a point."""

    voxel: Tensor  # (N,) int64, the voxel of each point
    positions: Tensor  # (V, 3) m, mean of the voxel's points
    cloud: Tensor  # (V,) int64, the cloud it belongs to
    features: Tensor  # (V, C)
    logits: Tensor  # (V, classes)
    offset: Tensor  # (V, 3) m, from the position to the centre of the object
    quality: Tensor  # (V,) logit of how good a star this voxel proposes
    first: Tensor | None = None  # (V, 3) m, the first offset, where they vote again

    def votes(self) -> Tensor:
        """(V, 3) where the voxels say that the centre of their object is, in metres."""
        return self.positions + self.offset


class StarPrediction(NamedTuple):
    """The stars that M voxels propose about their votes."""

    log_lengths: Tensor  # (M, n), of metres
    validity: Tensor  # (M, n) logit of whether the object has a surface in the ray's direction


class Membership(NamedTuple):
    """How far points are inside of stars; above 0 they belong to it."""

    inside: Tensor  # (E,) log ρ − log r
    residual: Tensor | None  # (E,) what the points themselves add to it; None of a model without residual

    def total(self) -> Tensor:
        """(E,) both together."""
        return self.inside if self.residual is None else self.inside + self.residual


class PolarMask3D(nn.Module):
    """Backbone and heads.

    >>> model = PolarMask3D(PolarMask3DConfig(backbone=BackboneConfig(voxel=0.1, widths=(8, 16))))
    >>> points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    >>> seen = model(points)
    >>> seen.logits.shape == (len(seen.positions), 1), model.stars(seen.features[:7]).log_lengths.shape
    (True, torch.Size([7, 42]))
    >>> len(model.predict_instances(points).labels)
    500
    """

    def __init__(self, config: PolarMask3DConfig):
        super().__init__()
        self.config = config
        self.rays = rays(config.rays)
        width = config.backbone.widths[0]
        depth = len(config.backbone.widths)
        self.backbone = Backbone(feature_width(config.features) + 4 + 3 * depth, config.backbone)
        self.dense = _head(width, width, config.classes + 4)
        self.revoting = Revoting(width, config.scale) if config.revote else None
        self.again = _head(width, width, config.classes + 4) if config.revote else None
        self.star = _head(width, 2 * width, 2 * len(self.rays))
        self.refinement = Refinement(width) if config.residual else None
        nn.init.constant_(self.dense[-1].bias[: config.classes], -math.log((1 - PRIOR) / PRIOR))

    def forward(
        self, points: Tensor, offsets: Tensor | None = None, features: Mapping[str, Tensor] | None = None
    ) -> VoxelPrediction:
        """What is said of ``points`` (N, 3), packed clouds where there are ``offsets`` (B + 1,).

        ``features`` by name, see :func:`pcgen.models.point_features.feature_columns`, whose errors and warnings and
        those of :func:`pcgen.ops.voxel_groups` are raised.
        """
        size, depth = self.config.backbone.voxel, len(self.config.backbone.widths)
        voxel, levels = voxel_pyramid(points, size, depth, offsets)
        bounds = torch.tensor([0, len(points)], device=points.device) if offsets is None else offsets
        columns = feature_columns(self.config.features, points, bounds, features or {}, self.config.up)
        cells = levels[0].cells
        means = ops.segment_reduce(torch.cat([points, columns], 1), voxel, len(cells), "mean").value
        counts = torch.bincount(voxel, minlength=len(cells)).to(points)
        around = surroundings(levels, means[:, :3] / size, counts)
        within = means[:, :3] / size - cells - 0.5
        h = self.backbone(levels, torch.cat([means[:, 3:], within, around, counts[:, None].log1p()], 1))
        said, first = self.dense(h), None
        if self.revoting is not None:
            h, said, first = self._revoted(h, said, means[:, :3], levels[0].cloud, len(bounds))
        logits, offset, quality = said.split([self.config.classes, 3, 1], 1)
        return VoxelPrediction(
            voxel, means[:, :3], levels[0].cloud, h, logits, self.config.scale * offset, quality[:, 0], first
        )

    def _revoted(
        self, h: Tensor, said: Tensor, positions: Tensor, cloud: Tensor, bounds: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, what the heads say of them, and the first offsets, in metres."""
        logits, offset, _ = said.split([self.config.classes, 3, 1], 1)
        first = self.config.scale * offset
        starts = torch.searchsorted(cloud, torch.arange(bounds, device=cloud.device))
        # Where votes fall into cells is no matter of gradients.
        h = self.revoting(h, positions, (positions + first).detach(), logits.detach().sigmoid().amax(1), starts)
        return h, said + self.again(h), first

    def stars(self, features: Tensor) -> StarPrediction:
        """The stars of voxels with these features (M, C)."""
        log_lengths, validity = self.star(features).chunk(2, 1)
        if self.config.sphere:
            log_lengths = log_lengths.mean(1, keepdim=True).expand_as(log_lengths)
        return StarPrediction(math.log(self.config.scale) + log_lengths.clamp(-RANGE, RANGE), validity)

    def membership(
        self, seen: VoxelPrediction, rows: Tensor, log_lengths: Tensor, star: Tensor, voxel: Tensor, x: Tensor
    ) -> Membership:
        """How far inside of stars points are.

        Args:
            rows, log_lengths: (S,) the voxels that propose the stars, (S, n) what they propose.
            star: (E,) int64, the star that each point is held against.
            voxel, x: (E,) the voxel of each point, (E, 3) its place, in metres.
        """
        votes = seen.votes()
        centre = votes[rows][star]
        inside = log_ratio(self.rays, log_lengths, star, x - centre)
        if self.refinement is None:
            return Membership(inside, None)
        radius = log_lengths.mean(1).exp()[star, None]
        place = (x - centre) / radius, (votes[voxel] - centre) / radius
        return Membership(inside, self.refinement(seen.features[voxel], seen.features[rows], star, *place, inside))

    def loss(self, batch: PolarBatch, generator: torch.Generator | None = None) -> Loss:
        """See :func:`pcgen.models.polar_loss.polar_loss`."""
        return polar_loss(self, batch, generator)

    def predict_instances(
        self, points: Any, features: Mapping[str, Any] | None = None, decoding: DecodingConfig | None = None
    ) -> Instances:
        """See :func:`pcgen.models.instances.predict_instances`."""
        return predict_instances(self, points, features, decoding)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers, the second small at first."""
    last = nn.Linear(hidden, outputs)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), last)
