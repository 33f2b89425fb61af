"""PolarMask3D's loss: class, offset to the centre, ray lengths, their validity, quality, and the points of the star."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, one_hot, smooth_l1_loss

from pcgen import ops
from pcgen.config import Settings
from pcgen.geometry.polar import centerness, polar_iou
from pcgen.models.objective import Loss
from pcgen.models.polar_targets import (
    InstanceStars,
    PolarBatch,
    lengths_from,
    positives,
    rank_within,
    sample_near,
    voxel_labels,
)
from pcgen.models.turning import randomly_turned

if TYPE_CHECKING:
    from pcgen.models.polarmask3d import PolarMask3D, VoxelPrediction

__all__ = ["PolarLossConfig", "dice_loss", "focal_loss", "polar_loss"]


@dataclass(frozen=True)
class PolarLossConfig(Settings):
    """Weights of the terms, and who learns what."""

    classification: float = 4.0  # weights of the terms
    offset: float = 2.0
    rays: float = 1.0
    validity: float = 0.2
    quality: float = 0.5
    assembly: float = 1.0
    gamma: float = 0.0  # of the focal loss: how much less sure points count; 0 is cross-entropy, which learned faster
    alpha: float = 0.5  # of the focal loss: weight of a class's points, 1 − alpha that of all others
    lengths: Literal["polar_iou", "smooth_l1"] = "polar_iou"  # what compares ray lengths
    quality_target: Literal["iou", "polarmask", "quantile", "antipodal"] = "iou"  # of prediction and truth; centerness
    radius: float = 0.35  # votes so near the centre, in radii of the instance, learn its star
    nearest: int = 8  # and so many of the nearest, however far
    most: int = 48  # votes of one instance that learn its star in one step
    instances: int = 64  # in one step, whose assembly is looked at
    points: int = 384  # around each of these, at most
    reach: float = 1.5  # around each of these, in lengths of its longest ray
    sharpness: float = 10.0  # τ of the soft assembly σ(τ (log ρ − log r)) (A4): 10 % off the surface is σ(±1)

    def __post_init__(self):
        super().__post_init__()
        weights = (self.classification, self.offset, self.rays, self.validity, self.quality, self.assembly)
        if min(weights) < 0:
            raise ValueError(f"weights of the loss must not be negative, got {min(weights)}")
        counts = (self.nearest, self.most, self.instances, self.points)
        if min(counts) < 1:
            raise ValueError(f"nearest, most, instances and points must be at least 1, got {counts}")
        if not self.gamma >= 0 or not 0 <= self.alpha <= 1:
            raise ValueError(f"gamma must not be negative, alpha must lie in 0 … 1, got {self.gamma} and {self.alpha}")
        lengths = (self.radius, self.reach, self.sharpness)
        if min(lengths) <= 0:
            raise ValueError(f"radius, reach and sharpness must be positive, got {lengths}")


def focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of sigmoids (Lin et al., ICCV 2017, equation 5), −α_t (1 − p_t)^γ log p_t, of the shape of ``logits``.

    ``target`` is 0 or 1, of the same shape.

    >>> focal_loss(torch.tensor([0.0]), torch.tensor([1.0]), gamma=2.0, alpha=0.25)    # 0.25 · 0.5² · log 2
    tensor([0.0433])
    """
    log_p = logsigmoid(torch.where(target > 0.5, logits, -logits))
    balance = torch.where(target > 0.5, alpha, 1 - alpha)
    return -balance * (1 - log_p.exp()) ** gamma * log_p


def dice_loss(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 − Dice (S,) of memberships σ(logits) (S, P) and ``target`` (S, P), over the columns that ``mask`` admits.

    One is added above and below, so that a row of nothing, predicted as such, costs nothing (V-Net, Milletari et al.,
    3DV 2016, with sums in place of squares).

    >>> dice_loss(torch.tensor([[99.0, -99.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[True, True]]))
    tensor([0.])
    """
    member, target = logits.sigmoid() * mask, target * mask
    return 1 - (2 * (member * target).sum(1) + 1) / (member.sum(1) + target.sum(1) + 1)


def polar_loss(model: PolarMask3D, batch: PolarBatch, generator: torch.Generator | None = None) -> Loss:
    """The loss of ``model`` on labelled clouds, its terms named as their weights.

    Before, the clouds are turned by one of the rotations that ``turns`` allows and the grid of voxels is moved, both at
    random. Unannotated points cost nothing. Classification is a mean over voxels, the other terms are means over
    instances that have a valid ray. ``ValueError`` for a class that the model does not have.
    """
    if int(batch.semantic.max()) > model.config.classes:
        raise ValueError(f"semantic must be a class up to {model.config.classes}, got {int(batch.semantic.max())}")
    config = model.config.loss
    edge = model.config.backbone.voxel * 2 ** (len(model.config.backbone.widths) - 1)
    batch = randomly_turned(batch, model, generator)
    shift = edge * torch.rand(3, generator=generator).to(batch.points)
    seen = model(batch.points + shift, batch.offsets, batch.features)
    instance, semantic = voxel_labels([batch.instance, batch.semantic], seen.voxel, len(seen.positions))
    known = _Known(seen.cloud, instance, batch.stars._replace(centres=batch.stars.centres + shift))
    learned = torch.cat([known.stars.valid.new_zeros(1), known.stars.valid.any(1)])  # not of those that are cut
    member = learned[instance.clamp_min(0)].nonzero()[:, 0]
    votes = _Votes.of(seen, known, member, model.config.backbone.voxel)
    chosen = positives(votes.apart.detach(), votes.instance, config.radius, config.nearest, config.most, generator)
    terms = {
        "classification": _classification(config, seen.logits, semantic),
        "offset": _offset(model, seen, votes),
        **_star_terms(model, seen, known, votes, chosen),
        "assembly": _assembly(model, seen, known, votes, chosen, generator),
    }
    terms = {name: getattr(config, name) * term for name, term in terms.items()}
    return Loss(sum(terms.values()), {name: term.detach() for name, term in terms.items()})


class _Known(NamedTuple):
    """What is known of the voxels."""

    cloud: Tensor  # (V,) int64
    instance: Tensor  # (V,) int64, 1 … K; 0 background; −1 unannotated
    stars: InstanceStars  # of the K instances


class _Votes(NamedTuple):
    """The M voxels of instances and where their votes land."""

    rows: Tensor  # (M,) int64, of the voxels
    instance: Tensor  # (M,) int64, row of the stars
    error: Tensor  # (M, 3) vote − centre, m
    apart: Tensor  # (M,) its norm, in radii of the instance

    @staticmethod
    def of(seen: VoxelPrediction, known: _Known, rows: Tensor, least: float) -> _Votes:
        """Radii are at least ``least``."""
        instance = known.instance[rows] - 1
        error = seen.votes()[rows] - known.stars.centres[instance]
        radius = known.stars.radii()[instance].clamp_min(least)
        return _Votes(rows, instance, error, torch.linalg.vector_norm(error, dim=1) / radius)


def _per_instance(cost: Tensor, instance: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean over instances of the weighted mean of each one's costs (M,); 0 of none.

    An instance weighs as the root of how many costs it has: each voxel alike would leave nothing to small objects,
    each object alike would let those of a few voxels, whose centres nobody can tell, drown all others.
    """
    _, row = instance.unique(return_inverse=True)
    count = int(row.max()) + 1 if len(row) else 0
    weight = torch.ones_like(cost) if weight is None else weight
    total, share = ops.segment_reduce(torch.stack([cost * weight, weight], 1), row, count).value.unbind(1)
    size = torch.bincount(row, minlength=count).to(cost).sqrt()
    return (size * total / share.clamp_min(torch.finfo(share.dtype).tiny)).sum() / size.sum().clamp_min(1)


def _offset(model: PolarMask3D, seen: VoxelPrediction, votes: _Votes) -> Tensor:
    """The distance of votes from their centres, in usual radii; the mean of both, where voxels vote twice."""
    errors = [votes.error]
    if seen.first is not None:
        errors.append(votes.error + (seen.first - seen.offset)[votes.rows])
    cost = torch.stack([torch.linalg.vector_norm(error, dim=1) for error in errors]).mean(0)
    return _per_instance(cost / model.config.scale, votes.instance)


def _classification(config: PolarLossConfig, logits: Tensor, semantic: Tensor) -> Tensor:
    target = one_hot(semantic.clamp_min(0), logits.shape[1] + 1)[:, 1:].to(logits)
    annotated = semantic >= 0
    return focal_loss(logits, target, config.gamma, config.alpha)[annotated].sum() / annotated.sum().clamp_min(1)


def _star_terms(model: PolarMask3D, seen: VoxelPrediction, known: _Known, votes: _Votes, chosen: Tensor) -> dict:
    """The ``chosen`` votes' ray lengths, their validity, and how good every vote's star is."""
    rays, config = model.rays, model.config.loss
    instance = votes.instance[chosen]
    predicted = model.stars(seen.features[votes.rows[chosen]])
    lengths = predicted.log_lengths.exp()
    valid = known.stars.valid[instance]
    truth = lengths_from(rays, known.stars.lengths[instance], votes.error[chosen].detach())
    compare = {"polar_iou": _polar_iou_cost, "smooth_l1": _smooth_l1_cost}[config.lengths]
    cost = compare(model, lengths, truth, valid)
    weight = centerness(rays, truth, "quantile", valid)
    unknown = binary_cross_entropy_with_logits(predicted.validity, valid.to(lengths), reduction="none").mean(1)
    if config.quality_target == "iou":
        facets = valid[:, rays.to(valid.device).faces].all(2).any(1)  # of a star without one nothing is known
        good = polar_iou(rays, lengths.detach(), truth, "triangulated", valid) * facets
    else:
        good = centerness(rays, truth, config.quality_target, valid)
    # Votes that land elsewhere propose nothing; those near that were not drawn have no say.
    target = torch.full_like(votes.apart, -1.0).masked_fill(votes.apart > config.radius, 0.0)
    target[chosen] = good
    judged = (target >= 0).nonzero()[:, 0]
    quality = seen.quality[votes.rows[judged]]
    misjudged = binary_cross_entropy_with_logits(quality, target[judged], reduction="none")
    return {
        "rays": _per_instance(cost, instance, weight),
        "validity": _per_instance(unknown, instance),
        "quality": _per_instance(misjudged, votes.instance[judged]),
    }


def _polar_iou_cost(model: PolarMask3D, lengths: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """−log of the polar IoU (M,): linear for a star that is far off, triangulated for one that fits.

    A short ray among long ones has hardly any triangulated gradient, so each star begins with the linear one, and its
    linear IoU says how far it is.
    """
    least = torch.finfo(lengths.dtype).eps
    linear = polar_iou(model.rays, lengths, truth, "linear", valid).clamp_min(least)
    triangulated = polar_iou(model.rays, lengths, truth, "triangulated", valid).clamp_min(least)
    return -torch.lerp(linear.log(), triangulated.log(), linear.detach())


def _smooth_l1_cost(model: PolarMask3D, lengths: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """The mean over valid rays (M,) of Huber's loss, in usual radii."""
    scale = model.config.scale
    cost = smooth_l1_loss(lengths / scale, truth / scale, reduction="none")
    return (cost * valid).sum(1) / valid.sum(1).clamp_min(1)


def _assembly(
    model: PolarMask3D,
    seen: VoxelPrediction,
    known: _Known,
    votes: _Votes,
    chosen: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Dice of the points around one star of each instance, with and without the residual of the points."""
    config = model.config.loss
    one = chosen[torch.randperm(len(chosen), generator=generator).to(chosen.device)]
    one = one[rank_within(votes.instance[one], torch.zeros_like(one)) == 0][: config.instances]
    rows, instance = votes.rows[one], votes.instance[one]
    if not len(rows):
        return seen.features.new_zeros(())
    reach = config.reach * known.stars.lengths[instance].amax(1)
    allowed = (known.cloud[rows, None] == known.cloud) & (known.instance >= 0)
    drawn = sample_near(seen.positions, allowed, known.stars.centres[instance], reach, config.points, generator)
    stars = model.stars(seen.features[rows]).log_lengths
    star = torch.arange(len(rows), device=rows.device).repeat_interleave(drawn.rows.shape[1])
    voxel = drawn.rows.reshape(-1)
    inside, residual = model.membership(seen, rows, stars, star, voxel, seen.positions[voxel])
    target = (known.instance[drawn.rows] == instance[:, None] + 1).to(inside)
    cost = dice_loss(config.sharpness * inside.reshape(target.shape), target, drawn.counts)
    if residual is not None:
        moved = (inside + residual).reshape(target.shape)
        cost = (cost + dice_loss(config.sharpness * moved, target, drawn.counts)) / 2
    return cost.mean()
