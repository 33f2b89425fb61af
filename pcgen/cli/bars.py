"""Progress bars on stderr, shown only where somebody watches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["bar", "counting"]

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
