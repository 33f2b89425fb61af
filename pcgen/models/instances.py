"""From what the network says of voxels to instances: candidates, suppression, and which points belong to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pcgen import ops
from pcgen.config import Settings
from pcgen.geometry.balls import balls
from pcgen.geometry.rays import Rays
from pcgen.geometry.stars import volume
from pcgen.geometry.suppression import star_nms
from pcgen.models.inference import as_tensor, evaluating, finite
from pcgen.models.point_features import checked_feature
from pcgen.models.polar_targets import instance_extents
from pcgen.models.regrouping import agreement, regrouped
from pcgen.models.thinning import thinned
from pcgen.models.turning import Averaged, averaged

if TYPE_CHECKING:
    from pcgen.models.polarmask3d import PolarMask3D

__all__ = ["DecodingConfig", "Instances", "Scan", "decode", "look", "predict_instances"]

REMNANT = 0.5  # share of the points it claims that an instance must hold against others


@dataclass(frozen=True)
class DecodingConfig(Settings):
    """Thresholds of decoding; they are tuned on training scenes and saved with the model."""

    foreground: float = 0.4  # probability of its class below which a voxel proposes nothing and belongs to nothing
    score: float = 0.05  # probability · quality below which a star is no candidate
    cell: float = 0.1  # m, edge of the cells of votes; the best vote of each is a candidate
    candidates: int = 20_000  # at most, the best ones
    overlap: float = 0.3  # IoU with a better star above which a star is dropped
    membership: float = 0.5  # below which a point does not belong
    agreement: float = 0.0  # share of an object's points that vote for it below which they are clustered; 0: never
    least: int = 30  # points of an instance
    turns: int = 1  # predictions are averaged over so many of the rotations that the model's `turns` allow
    # Mean points of a voxel that holds any: denser scans are thinned to it. Training sets it, to its densest scene's.
    density: float | None = None

    def __post_init__(self):
        super().__post_init__()
        shares = (self.foreground, self.score, self.overlap, self.membership, self.agreement)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"foreground, score, overlap, membership and agreement must lie in 0 … 1, got {shares}")
        if self.density is not None and not 1 <= self.density < float("inf"):
            raise ValueError(f"density must be at least 1, since a voxel that holds any holds one, got {self.density}")
        if not self.cell > 0 or min(self.candidates, self.least, self.turns) < 1:
            counts = f"{self.candidates}, {self.least} and {self.turns}"
            raise ValueError(
                f"cell must be positive, candidates, least and turns at least 1, got {self.cell}, {counts}"
            )


@dataclass(frozen=True)
class Instances:
    """The K objects found among N points, the best first; lengths in metres."""

    labels: Tensor  # (N,) int64, the object of each point: 1 … K, or 0
    classes: Tensor  # (K,) int64, 1 … classes
    scores: Tensor  # (K,) in 0 … 1
    centres: Tensor  # (K, 3) float64, in the coordinates of the points
    lengths: Tensor  # (K, n) rays of the star
    valid: Tensor  # (K, n) bool, whether a surface is expected in the ray's direction
    extents: Tensor  # (K, 3) edges of the box of its points
    volumes: Tensor  # (K,) m³, of the star
    points: Tensor  # (K,) int64, how many
    rays: Rays

    def __len__(self) -> int:
        return len(self.scores)

    def masks(self) -> Tensor:
        """(K, N) bool, the points of each object."""
        return self.labels == torch.arange(1, len(self) + 1, device=self.labels.device)[:, None]

    def take(self, kept: Tensor) -> Instances:
        """Those that ``kept`` names, numbers (M,) from 0 or (K,) bool, in its order; others' points have no object."""
        index = torch.arange(len(self), device=kept.device)[kept]
        number = torch.zeros(len(self) + 1, dtype=torch.int64, device=kept.device)
        number[1 + index] = torch.arange(1, len(index) + 1, device=kept.device)
        names = [field.name for field in fields(self) if field.name not in ("labels", "rays")]
        return replace(self, labels=number[self.labels], **{name: getattr(self, name)[index] for name in names})


class _Stars(NamedTuple):
    """Candidates, the best first."""

    rows: Tensor  # (S,) int64, the voxels that propose them
    scores: Tensor  # (S,)
    log_lengths: Tensor  # (S, n)
    validity: Tensor  # (S, n) logit

    def take(self, index: Tensor) -> _Stars:
        return _Stars(*(part[index] for part in self))


class _Pairs(NamedTuple):
    """Points that may belong to stars."""

    star: Tensor  # (E,) int64, ascending
    point: Tensor  # (E,) int64
    weight: Tensor  # (E,) score × membership


class Scan(NamedTuple):
    """Points, and what the network says of those that it was shown."""

    given: Tensor  # (N, 3) float64
    nearest: Tensor | None  # (N,) int64, which of the shown points each of them is taken for; None: they are the same
    points: Tensor  # (M, 3) float64, shown
    origin: Tensor  # (3,) float64, whole numbers, what was subtracted from them for the network
    x: Tensor  # (M, 3) the rest, of the network's type
    said: Averaged

    def everywhere(self, values: Tensor) -> Tensor:
        """(N, …) what is known of all points by ``values`` (M, …) of those shown."""
        return values if self.nearest is None else values[self.nearest]


def predict_instances(
    model: PolarMask3D, points: Any, features: Mapping[str, Any] | None = None, decoding: DecodingConfig | None = None
) -> Instances:
    """The objects that ``model`` finds among ``points`` (N, 3), in metres; the same points, the same objects.

    Coordinates may be far from the origin, as maps' are, if they are given as float64. A point has one object at most:
    that with the largest product of score and membership. An object's score is that of its star, probability of the
    class × quality, times the mean membership of its points, times the share of them that vote for its centre; for
    objects of too small a share see :func:`pcgen.models.regrouping.regrouped`.

    Args:
        features: by name, see :func:`pcgen.models.point_features.feature_columns`.
        decoding: in place of the thresholds in the model's configuration.

    Raises:
        ValueError: points that are not (N, 3), none at all, NaN or infinity, features that do not fit.
    """
    config = decoding or model.config.decoding
    return decode(model, look(model, points, features, config), config)


def look(
    model: PolarMask3D, points: Any, features: Mapping[str, Any] | None = None, decoding: DecodingConfig | None = None
) -> Scan:
    """The part of :func:`predict_instances` in which ``turns`` and ``density`` alone have a say."""
    config, given = decoding or model.config.decoding, as_tensor(points)
    if given.ndim != 2 or given.shape[1] != 3 or not len(given):
        raise ValueError(f"points must be (N, 3) with at least one point, got {tuple(given.shape)}")
    like = next(model.parameters())
    given = finite(given.double().to(like.device), "points")
    origin = given.mean(0).floor()
    x = (given - origin).to(like)
    known = {name: as_tensor(column).to(like) for name, column in (features or {}).items()}
    shown, nearest = given, None
    if config.density and (fewer := thinned(x, model.config.backbone.voxel, config.density)):
        used = [name for name in model.config.features if name in known]
        known = {name: checked_feature(name, known[name], x)[fewer.kept] for name in used}
        shown, nearest, x = given[fewer.kept], fewer.nearest, x[fewer.kept]
    with evaluating(model):
        return Scan(given, nearest, shown, origin, x, averaged(model, x, known, config.turns))


def decode(model: PolarMask3D, scan: Scan, config: DecodingConfig) -> Instances:
    """The objects that these thresholds make of what the network says."""
    with evaluating(model):
        probability = scan.said.seen.logits.sigmoid()
        stars = _candidates(model, scan.said, probability, config)
        centres = scan.said.seen.votes()[stars.rows]
        stars = stars.take(star_nms(model.rays, centres, stars.log_lengths.exp(), stars.scores, config.overlap))
        pairs = _memberships(model, scan, stars, probability, config)
        owner = _owners(pairs, len(scan.x), len(stars.rows), config.least)
        found = _instances(model, scan, stars, pairs, owner, probability)
        if config.agreement:
            found = regrouped(model, scan, found, probability, config)
        found = replace(found, scores=found.scores * agreement(scan, found))
        return _everywhere(scan, found.take(found.scores.argsort(descending=True, stable=True)))


def _everywhere(scan: Scan, found: Instances) -> Instances:
    """``found`` among the points that were shown, as objects of all points."""
    if scan.nearest is None:
        return found
    labels = scan.everywhere(found.labels)
    points = torch.bincount(labels, minlength=len(found) + 1)[1:]
    return replace(found, labels=labels, extents=instance_extents(scan.given, labels - 1, len(found)), points=points)


def _candidates(model: PolarMask3D, said: Averaged, probability: Tensor, config: DecodingConfig) -> _Stars:
    """The best vote of each cell of votes."""
    seen = said.seen
    best = probability.amax(1)
    scores = best * seen.quality.sigmoid()
    rows = ((best >= config.foreground) & (scores >= config.score)).nonzero()[:, 0]
    if len(rows):
        cells = ops.voxel_groups(seen.votes()[rows], config.cell)
        rows = rows[ops.segment_reduce(scores[rows], cells.group, len(cells.cells), "max").argmax]
    rows = rows[scores[rows].argsort(descending=True, stable=True)][: config.candidates]
    return _Stars(rows, scores[rows], *said.stars(model, rows))


def _memberships(model: PolarMask3D, scan: Scan, stars: _Stars, probability: Tensor, config: DecodingConfig) -> _Pairs:
    """The points of foreground voxels, with the stars that they belong to."""
    seen, x = scan.said.seen, scan.x
    reach = stars.log_lengths.exp().amax(1) * (1 if model.refinement is None else model.refinement.reach)
    candidates = (probability.amax(1) >= config.foreground)[seen.voxel].nonzero()[:, 0]
    found = []
    for pairs in balls(seen.votes()[stars.rows], reach, x[candidates]):
        star, point = pairs.ball, candidates[pairs.point]
        inside = model.membership(seen, stars.rows, stars.log_lengths, star, seen.voxel[point], x[point]).total()
        member = (model.config.loss.sharpness * inside).sigmoid()
        kept = member >= config.membership
        found.append((star[kept], point[kept], (stars.scores[star] * member)[kept]))
    if not found:
        none = stars.rows.new_zeros(0)
        return _Pairs(none, none, stars.scores.new_zeros(0))
    return _Pairs(*(torch.cat(part) for part in zip(*found)))


def _owners(pairs: _Pairs, points: int, stars: int, least: int) -> Tensor:
    """The pair (N,) by which each point has its star, −1 of none.

    A star that would hold fewer than ``least`` points, or too small a share of those that it claims, has none: it is
    what others left, not an object. What it loses goes to the next best, so stars are given up one after the other,
    those that lack most first.
    """
    order = pairs.weight.argsort(descending=True, stable=True)
    order = order[pairs.weight[order] > 0]
    order = order[pairs.point[order].argsort(stable=True)]  # the claims to each point, the best first
    star, claims = pairs.star[order], torch.bincount(pairs.point[order], minlength=points)
    end = claims.cumsum(0)
    at = end - claims  # the claim by which each point is held, none where it is the end
    claimed = torch.bincount(pairs.star, minlength=stars)
    needed, rows = (REMNANT * claimed).clamp_min(least), [0, *claimed.cumsum(0).tolist()]
    count = torch.bincount(star[at[at < end]], minlength=stars)
    gone = torch.zeros_like(count, dtype=torch.bool)
    while True:
        held = count / needed
        small = (held > 0) & (held < 1)
        if not small.any():
            return torch.cat([order, order.new_full((1,), -1)])[torch.where(at < end, at, len(order))]
        worst = (small & (held == held[small].min())).nonzero()[:, 0]
        gone[worst], count[worst] = True, 0
        for k in worst.tolist():
            lost = pairs.point[rows[k] : rows[k + 1]]
            lost = lost[at[lost] < end[lost]]
            found = _passed_on(lost[star[at[lost]] == k], star, at, end, gone)
            count += torch.bincount(star[at[found]], minlength=stars)


def _passed_on(lost: Tensor, star: Tensor, at: Tensor, end: Tensor, gone: Tensor) -> Tensor:
    """Those of the points ``lost`` that have a next claim by a star that is not ``gone``; ``at`` moves on to it."""
    found = []
    while len(lost):
        at[lost] += 1
        lost = lost[at[lost] < end[lost]]
        again = gone[star[at[lost]]]
        found.append(lost[~again])
        lost = lost[again]
    return torch.cat(found) if found else lost


def _instances(
    model: PolarMask3D, scan: Scan, stars: _Stars, pairs: _Pairs, owner: Tensor, probability: Tensor
) -> Instances:
    """The stars that have points, and what can be said of each."""
    point = (owner >= 0).nonzero()[:, 0]
    kept, star = pairs.star[owner[point]].unique(return_inverse=True)
    stars = stars.take(kept)
    lengths = stars.log_lengths.exp()
    return Instances(
        labels=torch.zeros_like(owner).index_copy(0, point, 1 + star),
        classes=1 + _mean(probability[scan.said.seen.voxel[point]], star, len(kept)).argmax(1),
        scores=_mean(pairs.weight[owner[point]], star, len(kept)),
        centres=scan.said.seen.votes()[stars.rows].double() + scan.origin,
        lengths=lengths,
        valid=stars.validity > 0,
        extents=instance_extents(scan.points[point], star, len(kept)),
        volumes=volume(model.rays, lengths),
        points=torch.bincount(star, minlength=len(kept)),
        rays=model.rays,
    )


def _mean(values: Tensor, star: Tensor, stars: int) -> Tensor:
    return ops.segment_reduce(values, star, stars, "mean").value
