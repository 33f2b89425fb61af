"""Stars about one centre compared ray by ray: polar IoU, its loss, and how central a centre is."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from pcgen.geometry.checks import check_choice, check_floats
from pcgen.geometry.rays import Rays
from pcgen.geometry.stars import volume

__all__ = ["CenternessKind", "PolarKind", "centerness", "polar_iou", "polar_iou_loss"]

PolarKind = Literal["linear", "cubic", "triangulated"]
CenternessKind = Literal["polarmask", "quantile", "antipodal"]


def polar_iou(rays: Rays, a: Tensor, b: Tensor, kind: PolarKind = "linear", valid: Tensor | None = None) -> Tensor:
    """The polar IoU (...) of stars about one centre with lengths ``a`` and ``b`` (..., n) ≥ 0; leading axes broadcast.

    With m = min(a, b), M = max(a, b), ray by ray, and solid angles w:

    - ``"linear"``: Σ w m / Σ w M, PolarMask's (Xie et al., CVPR 2020, arXiv 1909.13226) with weights;
    - ``"cubic"``: Σ w m³ / Σ w M³, squares in 2-D: the exact IoU of bodies that are pieces of balls over the cells;
    - ``"triangulated"``: V(m) / V(M), volumes of polyhedra over the same facets. As a body grows with its lengths, that
      of m lies in both and that of M holds both: a lower bound of their IoU, exact where one holds the other.

    Rays where ``valid`` (..., n) is False are left out, whatever their lengths, and so are facets with such a corner.
    Two bodies of no size, or no valid ray (facet), have IoU 1, without a gradient. Lengths of any scale neither
    overflow nor vanish; where a = b the gradient is the mean of both sides', 0.

    >>> from pcgen.geometry import rays
    >>> a, b = torch.ones(42), torch.full((42,), 2.0)
    >>> [round(polar_iou(rays("icosphere-42"), a, b, kind).item(), 6) for kind in ("linear", "cubic", "triangulated")]
    [0.5, 0.125, 0.125]
    """
    inner, outer = _measures(rays, a, b, kind, valid)
    nothing = outer == 0
    return torch.where(nothing, 1, inner / torch.where(nothing, 1, outer))


def polar_iou_loss(
    rays: Rays,
    a: Tensor,
    b: Tensor,
    kind: PolarKind = "linear",
    valid: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """−log :func:`polar_iou`, averaged over the stars with ``weights`` (...) ≥ 0, centerness in PolarMask: a scalar.

    Stars with nothing valid do not count, and the loss of no star is 0. An IoU of 0 costs log(1/tiny), 87 in float32,
    and still draws the longer star to the shorter.

    >>> from pcgen.geometry import rays
    >>> polar_iou_loss(rays("circle-36"), torch.ones(2, 36), torch.full((2, 36), 2.0))
    tensor(0.6931)
    """
    inner, outer = _measures(rays, a, b, kind, valid)
    counts = outer != 0
    if weights is not None and weights.shape != outer.shape:
        raise ValueError(f"weights must be one a star, {tuple(outer.shape)}, got {tuple(weights.shape)}")
    floor = torch.finfo(outer.dtype).tiny
    loss = torch.where(counts, outer, 1).log() - torch.where(counts, inner, 1).clamp_min(floor).log()
    share = counts.to(loss.dtype) if weights is None else torch.where(counts, weights.to(loss.dtype), 0)
    total = share.sum()
    return (share * loss).sum() / torch.where(total == 0, 1, total)


def _measures(rays: Rays, a: Tensor, b: Tensor, kind: PolarKind, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sizes (...) of min(a, b) and max(a, b) over what is valid, in a unit that makes the longest ray 1."""
    check_choice("kind", kind, PolarKind)
    check_floats("a", a, len(rays))
    check_floats("b", b, len(rays))
    if valid is not None:
        valid = _checked_mask(rays, valid)
        a, b = torch.where(valid, a, 0), torch.where(valid, b, 0)
    longer = torch.maximum(a, b)
    unit = longer.detach().amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1)
    bodies = torch.minimum(a, b) / unit, longer / unit
    if kind == "linear":
        w = rays.to(a.device).weights.to(longer.dtype)
        return (bodies[0] * w).sum(-1), (bodies[1] * w).sum(-1)
    of = "cell" if kind == "cubic" else "triangulated"
    return volume(rays, bodies[0], of), volume(rays, bodies[1], of)


def centerness(rays: Rays, lengths: Tensor, kind: CenternessKind = "quantile", valid: Tensor | None = None) -> Tensor:
    """How central (...), from 0 to 1, the centre of stars with ``lengths`` (..., n) ≥ 0 is; over ``valid`` rays only.

    - ``"polarmask"``: √(min d / max d) (arXiv 1909.13226), which one short ray brings to nothing;
    - ``"quantile"``: √(Q₁₀ / Q₉₀), the quantiles interpolated linearly;
    - ``"antipodal"``: [Π min(d, d′) / max(d, d′)]^{1/(2·pairs)} over pairs of opposite rays d, d′ that are both valid;
      ``ValueError`` where the set has rays without an opposite.

    With no valid ray or pair, and where the greater length is 0, it is 0.

    >>> from pcgen.geometry import rays
    >>> centerness(rays("circle-4"), torch.tensor([1.0, 1.0, 4.0, 1.0]), "antipodal")   # √½: one pair is 1 : 4
    tensor(0.7071)
    """
    check_choice("kind", kind, CenternessKind)
    check_floats("lengths", lengths, len(rays))
    valid = torch.ones_like(lengths, dtype=torch.bool) if valid is None else _checked_mask(rays, valid)
    lengths, valid = torch.broadcast_tensors(lengths, valid)
    if kind == "antipodal":
        return _over_pairs(lengths, valid, _opposite(rays).to(lengths.device))
    low, high = (0.0, 1.0) if kind == "polarmask" else (0.1, 0.9)
    ordered = torch.where(valid, lengths, torch.inf).sort(-1).values
    count = valid.sum(-1, keepdim=True)
    return _ratio(_quantile(ordered, count, low), _quantile(ordered, count, high)).sqrt()


def _quantile(ordered: Tensor, count: Tensor, q: float) -> Tensor:
    """The q-quantile (...) of the first ``count`` (..., 1) of ascending values (..., n); 0 of none."""
    place = q * (count - 1).clamp_min(0).to(ordered.dtype)
    below = place.floor().long()
    low, high = ordered.gather(-1, below), ordered.gather(-1, place.ceil().long())
    value = torch.where(count > 0, low, 0)
    return (value + (place - below) * (torch.where(count > 0, high, 0) - value))[..., 0]


def _over_pairs(lengths: Tensor, valid: Tensor, opposite: Tensor) -> Tensor:
    first = (opposite > torch.arange(len(opposite), device=opposite.device)).nonzero()[:, 0]
    d, other = lengths[..., first], lengths[..., opposite[first]]
    both = valid[..., first] & valid[..., opposite[first]]
    d, other = torch.where(both, d, 1), torch.where(both, other, 1)
    logs = _ratio(torch.minimum(d, other), torch.maximum(d, other)).log()
    pairs = both.sum(-1)
    return torch.where(pairs > 0, (logs.sum(-1) / (2 * pairs.clamp_min(1))).exp(), 0)


def _ratio(low: Tensor, high: Tensor) -> Tensor:
    """low / high, 0 where high is."""
    return torch.where(high == 0, 0, low / torch.where(high == 0, 1, high))


@cache
def _opposite(rays: Rays) -> Tensor:
    """The ray (n,) int64 opposite to each."""
    v = rays.to("cpu").directions
    found = rays.nearest(-v)
    if (v[found] + v).abs().max() > 1e-9:
        raise ValueError(f"antipodal centerness needs rays in opposite pairs, {rays.name} has others")
    return found


def _checked_mask(rays: Rays, valid: Tensor) -> Tensor:
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        raise TypeError(f"valid must be a bool tensor, got {getattr(valid, 'dtype', type(valid).__name__)}")
    if valid.shape[-1:] != (len(rays),):
        raise ValueError(f"valid must have the shape (..., {len(rays)}), got {tuple(valid.shape)}")
    return valid
