"""Progress bars on stderr, shown only where somebody watches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.models import PointFlow

__all__ = ["bar", "counting", "solving"]

T = TypeVar("T")


def bar(things: Sequence[T], what: str, quiet: bool = False) -> Iterator[T]:
    """The things one by one."""
    from tqdm import tqdm

    return iter(tqdm(things, desc=what, leave=False, disable=quiet or None))


@contextlib.contextmanager
def counting(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function ``(done, total)`` that moves the bar."""
    from tqdm import tqdm

    with tqdm(desc=what, leave=False, disable=quiet or None) as shown:

        def tell(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield tell


@contextlib.contextmanager
def solving(model: PointFlow, total: int, what: str, quiet: bool = False) -> Iterator[None]:
    """Within the block, the bar moves with each of the ``total`` points that ``model`` brings from its prior."""
    from tqdm import tqdm

    solve = model.points_from_prior
    with tqdm(total=total, desc=what, unit="points", unit_scale=True, leave=False, disable=quiet or None) as shown:

        def counted(y: Tensor, z: Tensor, solver=None) -> Tensor:
            x = solve(y, z, solver)
            shown.update(x.shape[0] * x.shape[1])
            return x

        model.points_from_prior = counted
        try:
            yield
        finally:
            del model.points_from_prior
