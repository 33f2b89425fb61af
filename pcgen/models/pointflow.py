"""PointFlow (Yang et al., ICCV 2019, arXiv 1906.12320): a latent flow over shapes and a point flow as decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pcgen.data.normalise import Normalisation
from pcgen.flows import SolverConfig, standard_normal_log_density
from pcgen.models.config import Likelihood, Samples
from pcgen.models.draws import Generators
from pcgen.models.inference import Progress, as_tensor, at_least_one, decode, evaluating, point_log_density, trace_of
from pcgen.models.noise import seed_of, shape_noise
from pcgen.models.objective import Loss, pointflow_loss, prior_loss
from pcgen.models.two_level_flow import TwoLevelFlow

__all__ = ["PointFlow"]


class PointFlow(TwoLevelFlow):
    """The generator: trained by :meth:`loss`, used in data units by all else.

    Args:
        config: sizes and objective.
        mean, scale: (3,), and a scalar or (3,); data = standardised · scale + mean. Identity if None.
        own_frames: whether it learns clouds that are standardised one by one (``data.normalise: shape``). Then those it
            is given in data units are too, and ``mean`` and ``scale`` are where generated shapes are placed.

    >>> from pcgen.flows import FlowConfig
    >>> from pcgen.models import PointFlowConfig
    >>> config = PointFlowConfig(latent=8, point_flow=FlowConfig((16,)), latent_flow=FlowConfig((16,)))
    >>> model = PointFlow(config).eval()
    >>> samples = model.sample(2, 100, generator=torch.Generator().manual_seed(0))
    >>> samples.points.shape, samples.z.shape
    (torch.Size([2, 100, 3]), torch.Size([2, 8]))
    """

    @classmethod
    def from_original(
        cls,
        path: str | Path,
        mean: Any = None,
        scale: Any = None,
        time_length: float = 0.5,
        nonlinearity: str = "tanh",
        layer: str = "concatsquash",
        atol: float = 1e-5,
        rtol: float = 1e-5,
    ) -> PointFlow:
        """A model from a checkpoint of the original program (stevenygd/PointFlow), released or from training.

        Sizes, blocks, norms, a trained T and the kind of encoder come from the tensors; the arguments say what no
        tensor tells. Only tensors are read, code in the file is never run.

        Args:
            path: a ``.pt`` with a bare state dict or ``{"model": state dict, …}``, keys with or without ``module.``.
            mean, scale: the data set's statistics, stored by the original beside its checkpoints.
            time_length: T, where it was not trained.
            nonlinearity, layer: of both flows' velocity networks.
            atol, rtol: tolerances of the point flow's solver; the latent flow's, whose solve costs nothing beside
                it and whose error moves a whole shape, are a tenth of them.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is no such checkpoint, is truncated, holds code, or contradicts ``layer``.
        """
        from pcgen.models.original import read_original

        config, state = read_original(path, time_length, nonlinearity, layer, SolverConfig(atol=atol, rtol=rtol))
        model = cls(config, mean, scale)
        try:
            model.load_state_dict({**state, "data_mean": model.data_mean, "data_scale": model.data_scale})
        except RuntimeError as error:  # sizes were read from some of the tensors, others contradict them
            raise ValueError(f"{path} is not one consistent model: {' '.join(str(error).split())}") from None
        return model.eval()

    def loss(
        self,
        batch: Tensor,
        generator: Generators = None,
        condition: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Loss:
        """The training objective on standardised clouds (B, N, 3).

        Args:
            generator: of its noise, on the CPU: one, or one for each cloud, so that it does not matter which others
                are in the batch.
            condition: what a conditional model is shown of the clouds (:meth:`Condition.of_shapes`).
            noise: flow matching: (B, N, 3) normal points that the paths of these lead to, coupled beforehand; None:
                drawn, and coupled as the objective says.
        """
        return pointflow_loss(self, batch, generator, condition, noise)

    def prior_loss(self, z: Tensor, generator: Generators = None, condition: Tensor | None = None) -> Loss:
        """The part of the objective that trains the latent flow alone, on codes z (B, Z) of a finished encoder.

        Arguments are those of :meth:`loss`.
        """
        return prior_loss(self, z, generator, condition)

    @property
    def solves_in_training(self) -> bool:
        """Whether the objective integrates the flows (flow matching does not)."""
        return self.config.objective.name == "likelihood"

    def sample(
        self,
        shapes: int,
        points: int,
        generator: torch.Generator | int | None = None,
        *,
        temperature: float = 1.0,
        truncation: float | None = None,
        point_temperature: float = 1.0,
        point_truncation: float | None = None,
        condition: Any = None,
        guidance: float = 1.0,
        solver: SolverConfig | None = None,
        progress: Progress | None = None,
    ) -> Samples:
        """New shapes, in data units.

        Shape i depends on the seed and i alone, not on how many are asked for; more points extend a cloud. An adaptive
        solver keeps to that within its tolerance, since it chooses its steps for all that it solves together.

        Args:
            shapes, points: S and N, at least 1.
            generator: the seed, as an integer or drawn from a generator.
            temperature, truncation: of the shape noise: its standard deviation, and the bound in standard
                deviations (before the temperature) that each of its values keeps to.
            point_temperature, point_truncation: the same of the point noise.
            condition: of a conditional model, for all shapes or one for each: a class's name, a picture (R, R) with
                values in [0, 1], black behind and cut as :func:`pcgen.geometry.views.framed` does, or a part, a cloud
                (N, 3) in data units. None: whatever the data hold; classes are drawn as often as in training.
            guidance: w in v = v_without + w (v_with − v_without), the latent flow's velocity; above 1: more typical of
                the condition, less varied; 0: the prior without conditions, which a part of the training showed.
            solver: of points, in place of the configured sampler. Codes have their own, see :meth:`sample_codes`.
            progress: called with (points done, points in all) after each solve.

        Raises:
            ValueError: the model is an autoencoder without a prior, a number is out of range, or the condition is of
                another kind or size than the model's.
        """
        at_least_one(shapes=shapes, points=points)
        seed = seed_of(generator)
        told = {"temperature": temperature, "truncation": truncation, "condition": condition, "guidance": guidance}
        z = self.sample_codes(shapes, seed, **told)
        noise = {"temperature": point_temperature, "truncation": point_truncation}
        return Samples(self.decode(z, points, seed, **noise, solver=solver, progress=progress), z)

    def sample_codes(
        self,
        shapes: int,
        generator: torch.Generator | int | None = None,
        *,
        temperature: float = 1.0,
        truncation: float | None = None,
        condition: Any = None,
        guidance: float = 1.0,
        solver: SolverConfig | None = None,
    ) -> Tensor:
        """Codes (S, Z) of new shapes; arguments and errors are those of :meth:`sample`, with ``solver`` of codes."""
        at_least_one(shapes=shapes)
        if self.latent_flow is None and not self.config.encoder.variational:
            raise ValueError("an autoencoder has no prior over shapes to sample from: train a VAE or a latent flow")
        seed = seed_of(generator)
        w = shape_noise(seed, shapes, self.config.latent, temperature=temperature, truncation=truncation)
        if condition is None and self.condition is not None:
            condition = self.condition.usual(shapes, seed)
        with evaluating(self):
            return self.shape_from_prior(w, solver or self.config.latent_sampler, condition, guidance)

    def decode(
        self,
        z: Any,
        points: int,
        generator: torch.Generator | int | None = None,
        *,
        temperature: float = 1.0,
        truncation: float | None = None,
        shared_noise: bool = False,
        first: int = 0,
        solver: SolverConfig | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Clouds (S, points, 3) in data units of the codes z (S, Z).

        ``shared_noise`` gives all the same noise; else they get that of the shapes ``first``, ``first`` + 1, … of the
        seed. The other arguments are those of :meth:`sample`.
        """
        at_least_one(points=points)
        noise = {"temperature": temperature, "truncation": truncation}
        z, solver = self._codes(z), solver or self.config.sampler
        return decode(self, z, points, seed_of(generator), noise, shared_noise, solver, progress, first)

    def reconstruct(
        self,
        x: Any,
        points: int,
        generator: torch.Generator | int | None = None,
        *,
        draw: bool = False,
        frame: Normalisation | None = None,
        **options,
    ) -> Tensor:
        """Clouds x (B, N, 3) in data units through their codes and back, (B, points, 3), each where it was.

        The code is the posterior's mean, or a draw from it with ``draw``; ``frame`` standardises the clouds in place of
        what :meth:`frames` would; ``options`` are those of :meth:`decode`.
        """
        seed = seed_of(generator)
        with evaluating(self):
            x = as_tensor(x)
            frames = self.frames(x, frame)
            posterior = self.encode(frames.apply(x, self.data_mean))
            z = posterior.mean
            if draw:
                z = posterior.sample(shape_noise(seed, *z.shape).to(z))
        back = self.decode(z, points, seed, **options)
        return back if frame is None and not self.own_frames else frames.invert(self.standardise(back))

    def interpolate(
        self,
        a: Any,
        b: Any,
        steps: int,
        points: int,
        generator: torch.Generator | int | None = None,
        *,
        space: Literal["latent", "prior"] = "latent",
        condition: Any = None,
        **options,
    ) -> Tensor:
        """Shapes (steps, points, 3) on the straight line from a to b, ends included, all with one point noise.

        Args:
            a, b: a cloud (N, 3) or (1, N, 3) in data units, or a code (Z,).
            steps: at least 2.
            space: where the line is straight: in z, or in the latent flow's prior.
            condition: of that prior, one for all shapes, as :meth:`sample` takes it. None: the prior without one.
        """
        at_least_one(steps=steps)
        if steps < 2:
            raise ValueError(f"an interpolation has at least its two ends, got steps={steps}")
        if space not in ("latent", "prior"):
            raise ValueError(f"space must be 'latent' or 'prior', got {space!r}")
        with evaluating(self):
            ends = torch.stack([self._code_of(a, "a"), self._code_of(b, "b")])
            if space == "prior" and self.latent_flow is not None:
                # No density: it costs Z derivatives.
                ends = self.latent_flow.to_prior(ends.unsqueeze(1), self._context(condition, 2)).x.squeeze(1)
            line = torch.lerp(ends[:1], ends[1:], torch.linspace(0, 1, steps).to(ends)[:, None])
            z = self.shape_from_prior(line, condition=condition) if space == "prior" else line
        return self.decode(z, points, generator, shared_noise=True, **options)

    def log_likelihood(
        self,
        x: Any,
        generator: torch.Generator | int | None = 0,
        trace: Literal["exact", "hutchinson"] = "exact",
        condition: Any = None,
        frame: Normalisation | None = None,
    ) -> Likelihood:
        """log p of clouds x (B, N, 3) in data units: per point given a draw of z, and a bound per cloud.

        The bound is Σ log p(x|z) + log p(z) + H[q(z|X)] at one draw of z (PointFlow, eq. 9). That draw, and
        Hutchinson's noise where ``trace`` asks for it, come from ``generator``. The scale that standardises a cloud, of
        ``frame`` or as :meth:`frames` says, enters with its log-determinant: densities are per cubic data unit. p(z) is
        that of the ``condition``, which is as :meth:`sample` takes it; told none, as there, it is the mixture of the
        classes, each with its share.
        """
        seed = seed_of(generator)
        how = trace_of(trace, seed)
        with evaluating(self):
            x = as_tensor(x)
            frames = self.frames(x, frame)
            x = self._clouds(frames.apply(x, self.data_mean), "x")
            posterior = self.encode(x)
            z = posterior.sample(shape_noise(seed, *posterior.mean.shape).to(x))
            points = torch.stack([point_log_density(self, cloud, code, how) for cloud, code in zip(x, z)])
            points = points - frames.log_det().to(x)[:, None]
            if posterior.logvar is None:
                return Likelihood(points, None)
            entropy = -standard_normal_log_density(torch.zeros_like(z)) + 0.5 * (posterior.logvar + 1).sum(1)
            return Likelihood(points, points.sum(1) + self.prior_log_density(z, how, condition) + entropy)

    def _code_of(self, shape: Any, name: str) -> Tensor:
        """The code (Z,) of a cloud (N, 3) in data units, or the code itself."""
        shape = as_tensor(shape)
        if shape.dim() == 3 and len(shape) == 1:
            shape = shape[0]
        if shape.dim() == 1:
            return self._codes(shape[None])[0]
        if shape.dim() == 2 and shape.shape[1] == 3:
            return self.encode(self.frames(shape[None]).apply(shape[None], self.data_mean)).mean[0]
        raise ValueError(f"{name} must be a cloud (N, 3) or a code ({self.config.latent},), got {tuple(shape.shape)}")
