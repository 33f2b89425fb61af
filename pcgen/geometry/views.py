"""Pictures of clouds: a z-buffer of points seen from the side, and pictures from elsewhere brought to the same frame.

The camera is orthographic and level, at azimuth α about the upward axis; α = 0 looks at the front, which is +z where y
points up. A picture is square, black where nothing is, and fits the shape's own box with a margin of one pixel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["framed", "views"]

FARTHEST = 0.25  # brightness of the farthest point of a depth picture; the nearest has 1

# The axes that point right, up and towards the camera at azimuth 0, for each upward axis: right-handed.
_AXES = {"x": (1, 0, 2), "y": (0, 1, 2), "z": (0, 2, 1)}
_TOWARDS = {"x": -1.0, "y": 1.0, "z": -1.0}


def views(
    x: Tensor,
    azimuth: Tensor,
    resolution: int,
    kind: Literal["depth", "silhouette"] = "depth",
    up: Literal["x", "y", "z"] = "y",
) -> Tensor:
    """Pictures (B, R, R) of clouds x (B, N, 3) from azimuths (B,), in radians; row 0 is the top.

    ``silhouette`` is 1 where points are; ``depth`` falls from 1 at the point nearest to the camera to 0.25 at the
    farthest. Holes of one pixel between points are closed.

    Raises:
        ValueError: x is not (B, N, 3) and finite, there is not one azimuth for each cloud, the resolution is below 4,
            or there is no such kind or axis.

    >>> stick = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [0, 2, 0]]])
    >>> views(stick, torch.zeros(1), 5, "silhouette")[0].int().tolist()[2]
    [0, 0, 1, 0, 0]
    """
    if x.dim() != 3 or x.shape[-1] != 3 or 0 in x.shape:
        raise ValueError(f"x must be clouds (B, N, 3), got {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"x must be finite, got {int((~x.isfinite()).sum())} values that are not")
    if azimuth.shape != (len(x),):
        raise ValueError(f"azimuth must be ({len(x)},), one for each cloud, got {tuple(azimuth.shape)}")
    if resolution < 4:
        raise ValueError(f"resolution must be at least 4 pixels, got {resolution}")
    if kind not in ("depth", "silhouette") or up not in _AXES:
        raise ValueError(f"expected kind 'depth' or 'silhouette' and up 'x', 'y' or 'z', got {kind!r} and {up!r}")
    x = x if x.is_floating_point() else x.float()
    plane, depth = _seen(x, azimuth, up)
    column, row = _pixels(plane, resolution).unbind(-1)
    shade = torch.ones_like(depth) if kind == "silhouette" else _shade(depth)
    buffer = x.new_zeros(len(x), resolution * resolution)
    buffer.scatter_reduce_(1, row * resolution + column, shade, "amax")
    return _closed(buffer.view(-1, resolution, resolution))


def framed(picture: Tensor, resolution: int) -> Tensor:
    """A picture (H, W) with values in [0, 1], cut to what is not black and brought into the frame of :func:`views`.

    Raises:
        ValueError: it is not (H, W) or empty, holds other values, or has no black background around something.
    """
    picture = picture if picture.is_floating_point() else picture.float()
    if picture.dim() != 2 or 0 in picture.shape:
        raise ValueError(f"a picture must be (H, W), got {tuple(picture.shape)}")
    if not (bool(picture.isfinite().all()) and float(picture.min()) >= 0 and float(picture.max()) <= 1):
        raise ValueError("a picture must have finite values between 0 and 1")
    there = picture > FARTHEST / 4
    if not there.any() or there.float().mean() > 0.98:
        raise ValueError("a picture must show something before a black background")
    rows, columns = (there.any(axis).nonzero().flatten() for axis in (1, 0))
    cut = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = resolution - 2
    size = [max(1, round(inside * side / max(cut.shape))) for side in cut.shape]
    small = F.interpolate(cut[None, None], size, mode="area")[0, 0]
    out = picture.new_zeros(resolution, resolution)
    top, left = ((resolution - side) // 2 for side in size)
    out[top : top + size[0], left : left + size[1]] = small
    return out


def _seen(x: Tensor, azimuth: Tensor, up: str) -> tuple[Tensor, Tensor]:
    """Where points are in the camera's plane, (B, N, 2) right and up, and how near they are to it, (B, N)."""
    right, upward, towards = (x[..., axis] for axis in _AXES[up])
    towards = _TOWARDS[up] * towards
    cos, sin = torch.cos(azimuth).to(x)[:, None], torch.sin(azimuth).to(x)[:, None]
    return torch.stack([cos * right - sin * towards, upward], -1), sin * right + cos * towards


def _pixels(plane: Tensor, resolution: int) -> Tensor:
    """Column and row (B, N, 2) of each point: the longer side of the box fills all but the margin."""
    low, high = plane.amin(1, keepdim=True), plane.amax(1, keepdim=True)
    size = (high - low).amax(-1, keepdim=True).clamp_min(torch.finfo(plane.dtype).tiny)
    place = (plane - (low + high) / 2) / size * (resolution - 3) + (resolution - 1) / 2
    place = torch.stack([place[..., 0], resolution - 1 - place[..., 1]], -1)
    return place.round().long().clamp(0, resolution - 1)


def _shade(depth: Tensor) -> Tensor:
    low, high = depth.amin(1, keepdim=True), depth.amax(1, keepdim=True)
    nearness = (depth - low) / (high - low).clamp_min(torch.finfo(depth.dtype).tiny)
    return FARTHEST + (1 - FARTHEST) * nearness


def _closed(pictures: Tensor) -> Tensor:
    """Morphological closing by 3 × 3 pixels: grown, then shrunk, so that outlines stay where they were."""
    grown = F.max_pool2d(F.pad(pictures[:, None], [2, 2, 2, 2]), 3, 1)
    return -F.max_pool2d(-grown, 3, 1)[:, 0]
