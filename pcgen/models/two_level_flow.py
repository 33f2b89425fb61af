"""The networks of a PointFlow and their densities, in standardised coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcgen.data.normalise import Normalisation
from pcgen.flows import Flow, SolverConfig, Trace, log_density, standard_normal_log_density
from pcgen.models.conditioning import Condition, context_of, guided_from_prior
from pcgen.models.config import PointFlowConfig
from pcgen.models.draws import Generators
from pcgen.models.encoder import Encoder, Posterior
from pcgen.models.frames import Frames, frames_of, own_frames
from pcgen.models.inference import as_tensor, finite, trace_of

__all__ = ["TwoLevelFlow"]


class TwoLevelFlow(nn.Module):
    """Encoder q(z | X), point flow of p(x | z) and latent flow of p(z) (Yang et al. 2019, arXiv 1906.12320, fig. 2).

    Args:
        config: sizes and objective.
        mean, scale: (3,), and a scalar or (3,); data = standardised · scale + mean. Identity if None.
        own_frames: whether it learns clouds that are standardised one by one (``data.normalise: shape``). Then those it
            is given in data units are too, and ``mean`` and ``scale`` are where generated shapes are placed.

    >>> from pcgen.flows import FlowConfig
    >>> config = PointFlowConfig(latent=8, point_flow=FlowConfig((16,)), latent_flow=FlowConfig((16,)))
    >>> flow, x = TwoLevelFlow(config).eval(), torch.zeros(2, 5, 3)
    >>> y, log_p = flow.points_to_prior(x, flow.encode(x).mean)
    >>> y.shape, log_p.shape
    (torch.Size([2, 5, 3]), torch.Size([2, 5]))
    """

    def __init__(self, config: PointFlowConfig, mean: Any = None, scale: Any = None, own_frames: bool = False):
        super().__init__()
        self.config, self.own_frames = config, own_frames
        self.encoder = Encoder(config.latent, config.encoder)
        self.point_flow = Flow(3, config.latent, config.point_flow)
        width = 0 if config.condition is None else config.condition.width
        self.latent_flow = None if config.latent_flow is None else Flow(config.latent, width, config.latent_flow)
        self.condition = None if config.condition is None else Condition(config.condition)
        mean = torch.zeros(3) if mean is None else as_tensor(mean).float().reshape(-1)
        scale = torch.ones(3) if scale is None else as_tensor(scale).float().reshape(-1)
        shapes_fit = mean.shape == (3,) and scale.numel() in (1, 3)
        if not (shapes_fit and mean.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError(f"mean must be (3,) and scale positive, () or (3,), got {mean.tolist()}, {scale.tolist()}")
        self.register_buffer("data_mean", mean.clone())
        self.register_buffer("data_scale", scale.expand(3).clone())

    def encode(self, x: Any) -> Posterior:
        """q(z | X) of standardised clouds x (B, N, 3)."""
        return self.encoder(self._clouds(x, "x"))

    def points_to_prior(
        self,
        x: Any,
        z: Any,
        trace: Literal["exact", "hutchinson"] = "exact",
        generator: torch.Generator | int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Standardised points x (B, N, 3) of shapes z (B, Z) → ``(y (B, N, 3), log p(x | z) (B, N))``.

        Hutchinson's noise comes from ``generator``.
        """
        return log_density(self.point_flow, self._clouds(x, "x"), self._codes(z), trace_of(trace, generator))[:2]

    def points_from_prior(self, y: Any, z: Any, solver: SolverConfig | None = None) -> Tensor:
        """Prior points y (B, N, 3) and codes z (B, Z) → standardised points (B, N, 3)."""
        return self.point_flow.from_prior(self._clouds(y, "y"), self._codes(z), solver=solver).x

    def shape_to_prior(
        self,
        z: Any,
        trace: Literal["exact", "hutchinson"] = "exact",
        generator: torch.Generator | int | None = None,
        condition: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Codes z (B, Z) → ``(w (B, Z), log p(z) (B,))``, given a condition as :meth:`sample` takes it.

        Hutchinson's noise comes from ``generator``.
        """
        z = self._codes(z)
        return self._codes_to_prior(z, trace_of(trace, generator), self._context(condition, len(z)))

    def shape_from_prior(
        self, w: Any, solver: SolverConfig | None = None, condition: Any = None, guidance: float = 1.0
    ) -> Tensor:
        """Prior codes w (B, Z) → codes z (B, Z), given a condition and its guidance as :meth:`sample` takes them."""
        w = self._codes(w)
        context = self._context(condition, len(w), guidance)
        if self.latent_flow is None:
            return w
        if guidance == 1:
            return self.latent_flow.from_prior(w.unsqueeze(1), context, solver=solver).x.squeeze(1)
        without, solver = self.condition.context(None, len(w)), solver or self.latent_flow.solver
        return guided_from_prior(self.latent_flow, w.unsqueeze(1), context, without, guidance, solver).squeeze(1)

    def code_log_density(self, z: Tensor, trace: Trace, context: Tensor | None = None) -> Tensor:
        """log p(z) (B,), given the condition's context (B, C) where the model has one."""
        return self._codes_to_prior(z, trace, context)[1]

    def prior_log_density(self, z: Tensor, trace: Trace, condition: Any = None) -> Tensor:
        """log p(z) (B,) given a condition; told none, Σ π_c p(z | c) over the classes whose shares π are known."""
        shares = None if self.condition is None else self.condition.log_shares()
        if condition is not None or shares is None:
            return self.code_log_density(z, trace, self._context(condition, len(z)))
        of_class = [self.code_log_density(z, trace, self._context(name, len(z))) + share for name, share in shares]
        return torch.stack(of_class).logsumexp(0)

    def _codes_to_prior(self, z: Tensor, trace: Trace, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.latent_flow is None:
            return z, standard_normal_log_density(z)
        found = log_density(self.latent_flow, z.unsqueeze(1), context, trace)
        return found.y.squeeze(1), found.value.squeeze(1)

    def shown(self, x: Tensor, names: Sequence[str], generators: Generators, up: str = "y") -> Tensor | None:
        """What a conditional model is shown in training of standardised clouds x (B, N, 3) with these categories.

        :meth:`Condition.of_shapes`, pictures at the proportions that shapes have in the data; None for other models.
        """
        if self.condition is None:
            return None
        in_pictures = self.config.condition.kind in ("depth", "silhouette")
        return self.condition.of_shapes(x * self.data_scale if in_pictures else x, names, generators, up)

    def _context(self, condition: Any, shapes: int, guidance: float = 1.0) -> Tensor | None:
        """Context (shapes, C) of the latent flow, None where it has none."""
        matching = self.config.objective.name == "flow_matching"
        return context_of(self.condition, condition, shapes, guidance, matching, place=self.standardise)

    def evaluations(self) -> dict[str, tuple[int, int]]:
        """Velocity evaluations of the latest solve of each flow, forward and backward."""
        flows = {"points": self.point_flow, "prior": self.latent_flow}
        return {name: flow.evaluations() for name, flow in flows.items() if flow is not None}

    def standardise(self, x: Any) -> Tensor:
        """Data units → standardised, (…, 3), by the data's mean and scale."""
        return Frames(self.data_mean, self.data_scale).apply(as_tensor(x), self.data_mean)

    def frames(self, x: Any, frame: Normalisation | None = None) -> Frames:
        """What standardises each of these clouds (B, N, 3): ``frame``, the data's, or (``own_frames``) its own."""
        if frame is not None:
            return frames_of([frame])
        if not self.own_frames:
            return Frames(self.data_mean.expand(1, 1, 3), self.data_scale.expand(1, 1, 3))
        return own_frames(finite(_clouds(as_tensor(x), "x"), "x"))

    def to_data(self, x: Tensor) -> Tensor:
        """Standardised → data units, (…, 3)."""
        return x * self.data_scale + self.data_mean

    def batch(self, x: Any, name: str = "x") -> Tensor:
        """Clouds (B, N, 3) in the type and on the device of the weights, wherever they stand; of the right shape."""
        return _clouds(as_tensor(x).to(self.data_mean), name)

    def batch_of_codes(self, z: Any) -> Tensor:
        """Codes (B, Z) in the type and on the device of the weights; of the right shape."""
        z = as_tensor(z).to(self.data_mean)
        if z.dim() != 2 or z.shape[-1] != self.config.latent:
            raise ValueError(f"codes must be (B, {self.config.latent}), got {tuple(z.shape)}")
        return z

    def _clouds(self, x: Any, name: str) -> Tensor:
        return finite(self.batch(x, name), name)

    def _codes(self, z: Any) -> Tensor:
        return finite(self.batch_of_codes(z), "codes")


def _clouds(x: Tensor, name: str) -> Tensor:
    if x.dim() != 3 or x.shape[-1] != 3 or 0 in x.shape:
        raise ValueError(f"{name} must be clouds (B, N, 3), got {tuple(x.shape)}")
    return x
