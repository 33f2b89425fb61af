"""What turns gradients into steps: Adam, or Muon for matrices between wide layers and Adam for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pcgen.flows.products import linear_no_grad
from pcgen.training.config import TrainingConfig

__all__ = ["Muon", "Optimizers", "new_optimizer", "orthogonalised"]

NARROWEST = 32  # rows and columns of a matrix that Muon takes: layers that begin or end with coordinates are Adam's
MOMENTUM = 0.95
ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al.'s, steepest at zero: small directions grow most
SIZE = 0.2  # root mean square of Adam's steps at a learning rate of one (Liu et al. 2025)


def orthogonalised(matrix: Tensor) -> Tensor:
    """About the orthogonal matrix next to this one (O, I): its singular vectors, all singular values near one.

    Newton and Schulz's iteration by the polynomial of Jordan et al. (2024), which takes singular values from 0.0011 of
    the norm up into 0.5 … 1.3 in five rounds. On the CPU in the matrix's own type: in bfloat16, PyTorch's takes 172 ms
    for 256 × 256 values on a processor with no more than AVX2, where this takes 7. On GPUs in bfloat16.

    >>> values = torch.linalg.svdvals(orthogonalised(torch.diag(torch.tensor([1.0, 0.5, 0.02]))))
    >>> bool(((values > 0.6) & (values < 1.3)).all())
    True
    """
    a, b, c = QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    tall = len(x) > x.shape[1]
    x = x.t() if tall else x
    x = x / x.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
    for _ in range(ROUNDS):
        gram = linear_no_grad(x, x)
        x = a * x + linear_no_grad(torch.add(b * gram, linear_no_grad(gram, gram), alpha=c), x.t())
    return (x.t() if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix next to the gradient's average, for matrices (O, I).

    So all directions of a weight learn alike (Jordan et al. 2024, kellerjordan.github.io/posts/muon). Steps have the
    size of Adam's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both. PyTorch's own needs 2.9
    and a processor with bfloat16.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if "average" not in self.state[p]:
                    self.state[p]["average"] = torch.zeros_like(p)
                average = self.state[p]["average"]
                average.lerp_(p.grad, 1 - MOMENTUM)
                update = orthogonalised(torch.lerp(p.grad, average, MOMENTUM))  # Nesterov's look ahead
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * SIZE * max(p.shape) ** 0.5)


class Optimizers:
    """Several optimisers that step as one."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def new_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainingConfig, tables: Iterable[nn.Parameter] = ()
) -> torch.optim.Adam | Optimizers:
    """The optimiser that ``config`` names, for these parameters: Adam, or :class:`Muon` with Adam for the rest.

    Muon takes matrices of at least 32 rows and columns that are none of the ``tables``. Weight decay is Adam's with the
    gradient, Muon's apart from it.
    """
    parameters, left = list(parameters), {id(p) for p in tables}
    matrices = [p for p in parameters if p.dim() == 2 and min(p.shape) >= NARROWEST and id(p) not in left]
    matrices = matrices if config.optimizer == "muon" else []
    taken = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in taken]
    adam = torch.optim.Adam(others, config.lr, config.betas, weight_decay=config.weight_decay, fused=True)
    return Optimizers(Muon(matrices, config.lr, config.weight_decay), adam) if matrices else adam
