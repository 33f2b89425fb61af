"""Distances between all clouds of two sets, tile by tile."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pcgen.ops.clouds import Clouds, check_pair, clouds

__all__ = ["Progress", "sets_of_clouds", "tiled"]

Progress = Callable[[int, int], object]  # called as progress(done, total)


def sets_of_clouds(
    X: Tensor,
    Y: Tensor,
    x_lengths: Tensor | None,
    y_lengths: Tensor | None,
    x_offsets: Tensor | None,
    y_offsets: Tensor | None,
    validate: bool,
) -> tuple[Clouds, Clouds]:
    """Both arguments of a matrix in the kernels' form, the same object where they are one."""
    left = clouds("X", X, x_lengths, x_offsets, validate)
    one = X is Y and x_lengths is y_lengths and x_offsets is y_offsets
    right = left if one else clouds("Y", Y, y_lengths, y_offsets, validate)
    for side in (left, right):
        if not side.batched:
            raise ValueError(f"{side.name} must be a set of clouds (S, N, D), got {tuple(side.shape)}")
    check_pair(left, right, batch=False)
    return left, right


def tiled(
    left: Clouds,
    right: Clouds,
    compute: Callable[[Tensor, Tensor, bool], Tensor],
    symmetric: bool,
    tile: int,
    progress: Progress | None,
) -> Tensor:
    """The matrix (S, R) of tiles ``compute(x_spans, y_spans, same)``; one triangle where ``symmetric``.

    ``same`` tells of a tile that it is itself symmetric: it lies on the diagonal.

    Where tiles have further dimensions in front, several results at once, so has the matrix.
    The work between two tiles belongs to Python, which hears Ctrl-C there and tells ``progress``.
    """
    S, R = len(left.spans), len(right.spans)
    matrix, done = None, 0
    for s in range(0, S, tile):
        for r in range(s if symmetric else 0, R, tile):
            part = compute(left.spans[s : s + tile], right.spans[r : r + tile], symmetric and s == r)
            if matrix is None:
                matrix = part.new_empty(*part.shape[:-2], S, R)
            matrix[..., s : s + tile, r : r + tile] = part
            done += part.shape[-2] * part.shape[-1]
            if symmetric and r > s:
                matrix[..., r : r + tile, s : s + tile] = part.mT
                done += part.shape[-2] * part.shape[-1]
            if progress:
                progress(done, S * R)
    return matrix
