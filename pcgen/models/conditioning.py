"""What a shape is to be: a class, a picture or a part of it, as context of the latent flow, with guidance.

A share of the shapes is trained without their condition, so one network knows the prior with and without it, and
sampling can go further than the condition alone: v = v_without + w (v_with − v_without), classifier-free guidance (Ho
& Salimans 2022, arXiv 2207.12598) of a flow-matching velocity (Zheng et al. 2023, arXiv 2311.13443).
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pcgen.config import Settings
from pcgen.flows import CNF, Flow, MovingBatchNorm, SolverConfig, solve
from pcgen.geometry.views import views
from pcgen.models.draws import Generators, drawn
from pcgen.models.encoder import Encoder, EncoderConfig
from pcgen.models.inference import as_tensor
from pcgen.models.noise import choices

__all__ = ["Condition", "ConditionConfig", "context_of", "guided_from_prior"]


@dataclass(frozen=True)
class ConditionConfig(Settings):
    """What the latent flow is told of a shape."""

    kind: Literal["class", "depth", "silhouette", "cloud"] = "class"  # a label, a picture, or half of the points
    width: int = 64  # values of the context
    dropout: float = 0.1  # share of shapes that are trained without their condition; guidance needs some
    classes: tuple[str, ...] = ()  # class: the names; () takes the training set's categories
    shares: tuple[float, ...] = ()  # how often a sample that is told no class is of each; () takes the training set's
    resolution: int = 32  # pictures: pixels of a side, a power of two
    views: int = 1  # pictures: azimuths that training looks from, equal steps from the front, 1: the front alone
    points: int = 256  # cloud: points of the part that training shows, at most

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "views", "points"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two of at least 8, got {self.resolution}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must differ, got {', '.join(self.classes)}")
        if self.shares and len(self.shares) != len(self.classes):
            raise ValueError(f"shares are of classes, one for each of {len(self.classes)}, got {len(self.shares)}")
        if self.shares and not (all(share >= 0 for share in self.shares) and 0 < sum(self.shares) < math.inf):
            raise ValueError(f"shares must be finite, none negative and not all zero, got {self.shares}")


class Condition(nn.Module):
    """Context (B, C) of the latent flow from classes, pictures or parts; a learned one where there is none.

    What describes B shapes is one tensor: class numbers (B,) int64 with −1 for none, pictures (B, R, R), or clouds
    (B, N, 3) in standardised coordinates.

    >>> condition = Condition(ConditionConfig("class", width=8, classes=("chair", "lamp")))
    >>> condition.context(condition.given("lamp", 3), 3).shape
    torch.Size([3, 8])
    >>> condition.given("lmap", 1)
    Traceback (most recent call last):
    ValueError: no class 'lmap' (nearest: 'lamp'); the model knows chair, lamp
    """

    def __init__(self, config: ConditionConfig):
        super().__init__()
        if config.kind == "class" and not config.classes:
            raise ValueError("a model of classes needs their names: condition.classes is empty")
        self.config = config
        self.encoder = _encoder(config)
        self.nothing = nn.Parameter(torch.zeros(config.width))

    def context(self, shown: Tensor | None, shapes: int, keep: Tensor | None = None) -> Tensor:
        """Context (shapes, C) of what :meth:`given` or :meth:`of_shapes` made; None: of no condition at all.

        Where ``keep`` (shapes,) is false a shape is left without its condition.
        """
        nothing = self.nothing.expand(shapes, -1)
        if shown is None:
            return nothing
        if self.config.kind == "class":
            context, there = self.encoder(shown.clamp_min(0)), shown >= 0
        else:
            context, there = self.encoder(shown), torch.ones(shapes, dtype=torch.bool, device=shown.device)
        if keep is not None:
            there = there & keep.to(there.device)
        return torch.where(there[:, None], context, nothing)

    def training_context(self, shown: Tensor | None, shapes: int, generators: Generators) -> Tensor:
        """The same; where gradients are taken, a share of the shapes, drawn from ``generators``, is left without."""
        if not torch.is_grad_enabled():
            return self.context(shown, shapes)
        draw = drawn(lambda n, g: torch.rand(n, generator=g), shapes, generators)
        return self.context(shown, shapes, draw >= self.config.dropout)

    def of_shapes(self, x: Tensor, names: Sequence[str], generators: Generators, up: str = "y") -> Tensor:
        """What training shows of clouds x (B, N, 3) with these categories: a class, a view, a part.

        Views come from one of the azimuths; a part, of standardised clouds, is the half of the points that lies
        farthest along a direction. Both are drawn from ``generators``. A category that is none of the classes, as a
        validation set may hold, is no condition.
        """
        config = self.config
        if config.kind == "class":
            number = {name: i for i, name in enumerate(config.classes)}
            return torch.tensor([number.get(name, -1) for name in names], device=x.device)
        if config.kind == "cloud":
            direction = drawn(lambda n, g: torch.randn(n, 3, 1, generator=g), len(x), generators).to(x)
            half = (x @ direction).squeeze(-1).topk(max(1, x.shape[1] // 2), dim=1).indices
            # Sorted as in x, whose order says nothing, the first are as good as any.
            part = half.sort(1).values[:, : config.points]
            return x.gather(1, part.unsqueeze(-1).expand(-1, -1, 3))
        turn = drawn(lambda n, g: torch.randint(config.views, (n,), generator=g), len(x), generators)
        return views(x, turn * (2 * math.pi / config.views), config.resolution, config.kind, up)

    def usual(self, shapes: int, seed: int) -> list[str] | None:
        """A class for each of so many shapes, as often as the training set has it: (seed, i) tell that of shape i.

        None where a condition is no class, or nobody counted the classes (models from before ``shares``).

        >>> condition = Condition(ConditionConfig("class", classes=("chair", "lamp"), shares=(3, 1)))
        >>> condition.usual(6, seed=0)
        ['chair', 'chair', 'lamp', 'chair', 'chair', 'chair']
        """
        if not self.config.shares:
            return None
        return [self.config.classes[i] for i in choices(seed, shapes, self.config.shares)]

    def log_shares(self) -> list[tuple[str, float]] | None:
        """The classes that a sample told none may be of, and the logarithm of how likely each is; None as there."""
        if not self.config.shares:
            return None
        total = sum(self.config.shares)
        return [
            (name, math.log(share / total)) for name, share in zip(self.config.classes, self.config.shares) if share
        ]

    def given(self, value: Any, shapes: int) -> Tensor:
        """A user's condition for so many shapes: one for all of them, or one for each.

        Args:
            value: class names; pictures (R, R) or (shapes, R, R) with values in [0, 1]; clouds (N, 3) or
                (shapes, N, 3).

        Raises:
            ValueError: of another kind or size, not finite, or a class that the model has not seen.
        """
        if self.config.kind == "class":
            return self._classes(value, shapes)
        picture, R = self.config.kind != "cloud", self.config.resolution
        what = f"a picture ({R}, {R}), or one for each shape" if picture else "a cloud (N, 3), or one for each shape"
        if isinstance(value, str):
            raise ValueError(f"the model's condition is {what}, got {value!r}")
        try:
            x = as_tensor(value).to(self.nothing)
        except (TypeError, ValueError):  # NumPy's, of what it makes no numbers of, or clouds of several sizes
            raise ValueError(f"the model's condition is {what}, got {type(value).__name__}") from None
        given = tuple(x.shape)
        x = x.expand(shapes, *x.shape) if x.dim() == 2 else x
        size = (shapes, R, R) if picture else (shapes, x.shape[1] if x.dim() == 3 else 0, 3)
        if x.shape != size or 0 in size:
            raise ValueError(f"the model's condition is {what}, got {given} for {shapes} shapes")
        if not bool(x.isfinite().all()) or (picture and not bool(((x >= 0) & (x <= 1)).all())):
            between = f" and between 0 and 1, got {float(x.min()):g} to {float(x.max()):g}"
            raise ValueError(f"the model's condition must be finite{between * picture}")
        return x

    def _classes(self, value: Any, shapes: int) -> Tensor:
        classes = self.config.classes
        names = value.tolist() if isinstance(value, np.ndarray) else value
        names = [value] * shapes if isinstance(value, str) else names
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the model's condition is a class ({', '.join(classes)}), got {type(value).__name__}")
        if len(names) != shapes:
            raise ValueError(f"one class for all, or one for each of {shapes} shapes, got {len(names)}")
        for name in names:
            if name not in classes:
                near = difflib.get_close_matches(name, classes, n=1, cutoff=0.0)[0]
                raise ValueError(f"no class {name!r} (nearest: {near!r}); the model knows {', '.join(classes)}")
        return torch.tensor([classes.index(name) for name in names], device=self.nothing.device)


def context_of(
    condition: Condition | None,
    value: Any,
    shapes: int,
    guidance: float,
    matching: bool,
    place: Callable[[Tensor], Tensor],
) -> Tensor | None:
    """Context (shapes, C) of a user's ``value``, None for a model without conditions; ``place`` standardises parts.

    Raises:
        ValueError: a condition or a guidance that the model lacks, or one that it cannot do without.
    """
    if not (isinstance(guidance, numbers.Real) and math.isfinite(guidance)):
        raise ValueError(f"guidance must be a finite number, got {guidance!r}")
    if condition is None:
        if value is not None or guidance != 1:
            raise ValueError("the model was trained without conditions: it takes neither a condition nor guidance")
        return None
    trained_free = condition.config.dropout > 0
    if guidance != 1 and value is None:
        raise ValueError(f"guidance {guidance:g} leads towards a condition, and none was given")
    if guidance != 1 and not (trained_free and matching):
        raise ValueError("guidance needs a model trained by flow matching with condition.dropout above 0")
    if value is None and not trained_free:
        raise ValueError("the model never went without its condition (condition.dropout is 0): give one")
    if value is None:
        return condition.context(None, shapes)
    shown = condition.given(value, shapes)
    return condition.context(place(shown) if condition.config.kind == "cloud" else shown, shapes)


def _encoder(config: ConditionConfig) -> nn.Module:
    if config.kind == "class":
        return nn.Embedding(len(config.classes), config.width)
    if config.kind == "cloud":
        return _PartEncoder(config.width)
    # Halved by convolutions down to 4 × 4 pixels, wider each time.
    widths = [16 * 2**i for i in range(config.resolution.bit_length() - 3)]
    layers: list[nn.Module] = [nn.Unflatten(1, (1, config.resolution))]
    for a, b in zip((1, *widths), widths):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * widths[-1], config.width))


class _PartEncoder(nn.Module):
    """PointFlow's encoder, smaller and without a variance."""

    def __init__(self, width: int):
        super().__init__()
        self.net = Encoder(width, EncoderConfig((64, 128, 256), (128,), variational=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean


def guided_from_prior(
    flow: Flow, y: Tensor, context: Tensor, without: Tensor, guidance: float, solver: SolverConfig
) -> Tensor:
    """Prior states y (B, N, D) to data by the guided velocity; contexts (B, C) with and without the condition."""
    norms = [m for m in flow.chain if isinstance(m, MovingBatchNorm)]
    (cnf,) = (m for m in flow.chain if isinstance(m, CNF))
    modulation, end = cnf.net.modulation(torch.cat([context, without])), cnf.end_time

    def velocity(s: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        told, free = cnf.net(s * end, torch.cat([state[0], state[0]]), modulation).chunk(2)
        return (end * torch.lerp(free, told, guidance),)

    for norm in norms[1:]:
        y = norm.inverse(y)
    (x,), _ = solve(velocity, (y,), solver, reverse=True)
    for norm in norms[:1]:
        x = norm.inverse(x)
    return x
