"""How an operation is bound to PyTorch: one schema, one definition in plain PyTorch, and faster twins of it.

Each operation is registered with the dispatcher as ``torch.ops.pcgen.<name>``: the definition for every device, the
C++ twin over it on the CPU, the CUDA twin on GPUs, a function that knows only shapes for ``torch.compile``, and the
gradient.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pcgen.ops import gpu, gpu_compiler, native

__all__ = ["Server", "define", "fingerprint", "no_second_derivative", "servers"]

LIBRARY = torch.library.Library("pcgen", "DEF")
FAST_DIMENSIONS = (1, 2, 3)
_TWINS: dict[str, tuple[bool, bool]] = {}  # operation -> has it a C++ and a CUDA twin?


class Server(NamedTuple):
    """What computes an operation here."""

    operation: str
    cpu: str
    cuda: str


def define(
    schema: str,
    reference: Callable,
    shapes: Callable,
    cpu: Callable | None = None,
    cuda: Callable | None = None,
    backward: Callable | None = None,
    saved: Callable | None = None,
) -> Callable:
    """Registers an operation with the dispatcher and returns it.

    ``schema`` is PyTorch's, "name(Tensor x) -> Tensor"; all functions take what it names. ``shapes`` returns empty
    tensors of the result's shapes and types. ``saved(ctx, inputs, output)`` keeps what ``backward(ctx, *gradients)``
    needs. ``cpu`` is left aside where no library was compiled, ``cuda`` where NVRTC does not work, and both where the
    first tensor has more than three columns.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    if cpu:
        LIBRARY.impl(name, _where(lambda _: native.available(), cpu, reference), "CPU")
    if cuda:
        LIBRARY.impl(name, _where(lambda x: gpu.available(x.device.index), cuda, reference), "CUDA")
    torch.library.register_fake(f"pcgen::{name}", shapes, lib=LIBRARY)
    if backward:
        torch.library.register_autograd(f"pcgen::{name}", backward, setup_context=saved, lib=LIBRARY)
    _TWINS[name] = (cpu is not None, cuda is not None)
    return getattr(torch.ops.pcgen, name).default


def no_second_derivative(name: str) -> dict[str, Callable]:
    """Arguments of :func:`define` for a gradient that cannot itself be differentiated: an error in place of a zero."""

    def refuse(ctx, *_):
        raise RuntimeError(f"{name} has no second derivative")

    return {"backward": refuse, "saved": lambda ctx, inputs, output: None}


def servers() -> list[Server]:
    """Which kernel serves which operation on the CPU and on CUDA devices, and why."""
    found = native.library()
    on_cpu = f"C++ ({found.why})" if found.functions else f"plain PyTorch ({found.why})"
    on_cuda, definition = gpu.describe(), "plain PyTorch (the definition)"
    return [
        Server(name, on_cpu if cpu else definition, on_cuda if cuda else definition)
        for name, (cpu, cuda) in _TWINS.items()
    ]


@functools.cache
def fingerprint() -> str:
    """A hash of all that computes here, sources, library and PyTorch: where it is the same, so are results."""
    files = [*sorted(Path(__file__).parent.rglob("*.py")), *sorted(gpu_compiler.SOURCES.glob("*.[ch]*"))]
    found = native.library()
    if found.functions:
        files.append(Path(found.functions._name))
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(" ".join([torch.__version__, *hashes]).encode()).hexdigest()[:16]


def _where(there: Callable[[Tensor], bool], fast: Callable, reference: Callable) -> Callable:
    def run(x: Tensor, *rest):
        fits = x.ndim != 2 or x.shape[-1] in FAST_DIMENSIONS
        return (fast if fits and there(x) else reference)(x, *rest)

    return run
