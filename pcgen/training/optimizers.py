"""What turns gradients into steps: Adam, or Muon for the matrices between hidden layers and Adam for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pcgen.training.config import TrainingConfig

__all__ = ["Optimizers", "new_optimizer"]

NARROWEST = 32  # of a matrix that Muon takes: layers that begin or end with coordinates are Adam's


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


def new_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Adam | Optimizers:
    """The optimiser that ``config`` names, for these parameters.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) steps along the orthogonal matrix next to the
    gradient's average, so that all directions of a weight learn alike. Its steps have the size of Adam's (Liu et al.
    2025, arXiv 2502.16982), so one learning rate serves both.

    Raises:
        ValueError: muon is asked of a PyTorch older than 2.9.
    """
    parameters = list(parameters)
    matrices = [p for p in parameters if config.optimizer == "muon" and p.dim() == 2 and min(p.shape) >= NARROWEST]
    taken = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in taken]
    adam = torch.optim.Adam(others, config.lr, config.betas, weight_decay=config.weight_decay, fused=True)
    if not matrices:
        return adam
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"optimizer 'muon' needs PyTorch 2.9, this is {torch.__version__}: set training.optimizer=adam"
        )
    muon = torch.optim.Muon(matrices, config.lr, config.weight_decay, adjust_lr_fn="match_rms_adamw")
    return Optimizers(muon, adam)
