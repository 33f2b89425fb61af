"""What a model is judged by while it trains: its objective and its reconstructions on shapes it has not seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pcgen.data.shapes import Shapes, ShapeSplit, batches
from pcgen.metrics.reconstruction import reconstruction
from pcgen.models import PointFlow, draw_codes
from pcgen.training.config import RunConfig
from pcgen.training.noise import shown, step_noise
from pcgen.training.state import Stage

__all__ = ["comparable", "validate"]

VALIDATION_SHAPES, RECONSTRUCTED_SHAPES, RECONSTRUCTED_POINTS = 128, 16, 1024


@torch.no_grad()
def validate(model: PointFlow, split: ShapeSplit, shapes: Shapes, config: RunConfig) -> dict[str, float]:
    """The objective on a split, and the Chamfer distance of reconstructions in data units; the same noise each time."""
    sums: dict[str, float] = {}
    count = 0
    fixed = batches(split, shapes.normalisation, config.data, batch=config.training.batch, seed=0, epoch=0)
    for step, batch in enumerate(fixed):
        noise, x = step_noise(config.training.seed, 0, step, batch.rows), batch.points.to(model.data_mean)
        condition = shown(model, x, batch, split, noise, config.data.up)
        loss = model.loss(x, noise, condition=condition)
        terms = {**loss.terms, "total": loss.total}
        if model.latent_flow is not None and "prior" not in terms:  # an autoencoder's, which a stage of its own trains
            terms |= model.prior_loss(draw_codes(model.encoder(x), noise), noise, condition).terms
        for name, term in terms.items():
            sums[f"val/{name}"] = sums.get(f"val/{name}", 0.0) + float(term) * len(batch.points)
        count += len(batch.points)
        if count >= VALIDATION_SHAPES:
            break
    values = {name: total / count for name, total in sums.items()}
    placed = split.first(RECONSTRUCTED_SHAPES).placed(config.data.normalise, shapes.normalisation)
    clouds = [torch.as_tensor(placed.input(i)[: config.data.points]) for i in range(len(placed))]
    references = [torch.as_tensor(placed.reference(i)[:RECONSTRUCTED_POINTS]) for i in range(len(placed))]
    codes = [model.encode(model.standardise(cloud[None])).mean for cloud in clouds]  # placed, hence by the data's frame
    back = [model.decode(z, len(ref), 0)[0].cpu() for z, ref in zip(codes, references)]
    scores = [float(reconstruction(x[None], ref[None], emd="none").cd) for x, ref in zip(back, references)]
    values["val/reconstruction_cd"] = float(np.mean(scores))
    values["evaluations/sample_points"] = model.evaluations()["points"][0]
    return values


def comparable(values: Mapping[str, float], config: RunConfig, stage: Stage) -> float:
    """What ``best`` means: the validation loss, or the part of it that epochs of a stage can be compared by.

    Flow matching's prior term has a floor that moves with the encoder (noisier codes are harder to match and easier to
    generate), so it counts only where the encoder stands still. The loss of an autoencoder by likelihood has no such
    term, and none else tells its prior's stage anything.
    """
    prior, joint = values.get("val/prior", 0.0), config.model.objective.name == "likelihood"
    if joint and config.model.encoder.variational:
        return values["val/total"]
    if stage.prior_only:
        return prior
    return values["val/total"] - (0.0 if joint else prior)
