"""Several sets measured against the same references: matrices, scores, intervals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from pcgen.metrics.blocks import Matrix, Side, distance_matrix
from pcgen.metrics.intervals import Interval, between_sets, halves_sd, jackknife_jsd_sd, score_interval
from pcgen.metrics.occupancy import cell_counts, divergence, outside_ball
from pcgen.metrics.protocols import Plan, normalised
from pcgen.metrics.sets import DistanceScores, Frame, distance_scores

__all__ = ["Found", "Measurement", "named_scores"]

StageProgress = Callable[[str, int, int], object]  # called as progress(stage, done, total)


@dataclasses.dataclass(frozen=True)
class Found:
    """The scores of one set, or their means over several."""

    cd: DistanceScores
    emd: DistanceScores | None
    jsd: float
    intervals: dict[str, Interval]  # by the names of `named_scores`
    outside: float  # share of the points outside the JSD grid's ball
    moved: float | None  # share of the mass that an annealed EMD moves from the references to the set, on average


def named_scores(cd: DistanceScores, emd: DistanceScores | None, jsd: float) -> dict[str, float]:
    """Every score under its name: ``mmd_cd``, ``mmd_cd_samples``, …, ``one_nna_emd_references``, ``jsd``."""
    named = {}
    for distance, scores in (("cd", cd), ("emd", emd)):
        for field, value in scores._asdict().items() if scores else ():
            measure = field.removesuffix("_samples").removesuffix("_references")
            named[f"{measure}_{distance}{field.removeprefix(measure)}"] = value
    return {**named, "jsd": jsd}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What all sets of one evaluation share."""

    plan: Plan
    frame: Frame
    references: Tensor  # (R, N, 3) float64, normalised, in the frame
    dtype: torch.dtype  # that distances are computed in
    name: str  # of the references
    cache: Path | None
    progress: StageProgress | None
    level: float  # of the intervals; 0 for none
    seed: int

    @functools.cached_property
    def reference(self) -> Side:
        return Side.of(self.references.to(self.dtype))

    @functools.cached_property
    def within_references(self) -> dict[str, Matrix]:
        return self._matrices(self.reference, self.reference, f"{self.name} x {self.name}")

    @functools.cached_property
    def reference_counts(self) -> csr_array:
        return cell_counts(self.references)

    @functools.cached_property
    def outside(self) -> float:
        return outside_ball(self.references)

    def placed(self, clouds: Tensor) -> Tensor:
        """Sample clouds (S, N, 3) as they are measured."""
        return self.frame.place(normalised(clouds, self.plan.choices.normalise_samples))

    def scores(self, clouds: Tensor, name: str) -> Found:
        """Scores of (S, N, 3) clouds, with intervals from parts of both sets."""
        found, values, counts = self._measured(clouds, name)
        return dataclasses.replace(found, intervals=self._intervals(found, values, counts)) if self.level else found

    def mean_scores(self, sets: list[Tensor], name: str) -> Found:
        """Means over independently generated sets, with the intervals that follow from their spread."""
        each = [self._measured(clouds, f"{name} {k}")[0] for k, clouds in enumerate(sets)]
        mean = lambda field: np.mean([getattr(found, field) for found in each], 0).tolist()  # noqa: E731
        named = [named_scores(found.cd, found.emd, found.jsd) for found in each]
        return Found(
            cd=DistanceScores(*mean("cd")),
            emd=DistanceScores(*mean("emd")) if each[0].emd else None,
            jsd=mean("jsd"),
            intervals=between_sets(named, self.level) if self.level else {},
            outside=mean("outside"),
            moved=None if each[0].moved is None else mean("moved"),
        )

    def _measured(self, clouds: Tensor, name: str) -> tuple[Found, dict[str, tuple[Tensor, ...]], csr_array]:
        """The scores, and what they were found from: the matrices rr, rs, ss of each distance, the cell counts."""
        rr = self.within_references
        placed = self.placed(clouds)
        side = Side.of(placed.to(self.dtype))
        rs = self._matrices(self.reference, side, f"{self.name} x {name}")
        ss = self._matrices(side, side, f"{name} x {name}")
        values = {kind: tuple(m[kind].value.cpu() for m in (rr, rs, ss)) for kind in rr}
        by_distance = {kind: distance_scores(*matrices) for kind, matrices in values.items()}
        moved, counts = rs["emd"].moved if "emd" in rs else None, cell_counts(placed)
        found = Found(
            cd=by_distance["cd"],
            emd=by_distance.get("emd"),
            jsd=float(divergence(counts.sum(0), self.reference_counts.sum(0))),
            intervals={},
            outside=outside_ball(placed),
            moved=None if moved is None else moved.mean().item(),
        )
        return found, values, counts

    def _matrices(self, left: Side, right: Side, stage: str) -> dict[str, Matrix]:
        choices = self.plan.choices
        kinds = {"cd": "cd"} | ({} if choices.emd == "none" else {"emd": choices.emd})
        found = {}
        for kind, distance in kinds.items():
            tell = self.progress and functools.partial(self.progress, f"{kind} {stage}")
            found[kind] = distance_matrix(distance, left, right, choices.tolerance, self.cache, tell)
        return found

    def _intervals(self, found: Found, values: dict[str, tuple[Tensor, ...]], counts: csr_array) -> dict[str, Interval]:
        R, S = next(iter(values.values()))[1].shape

        def of_parts(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            parts = [distance_scores(rr[i][:, i], rs[i][:, j], ss[j][:, j]) for rr, rs, ss in values.values()]
            return np.concatenate(parts)

        sds = [*halves_sd(of_parts, R, S, self.seed), jackknife_jsd_sd(self.reference_counts, counts)]
        scores = named_scores(found.cd, found.emd, found.jsd)
        highest = {name: np.inf if name.startswith("mmd") else 1.0 for name in scores}
        return {
            name: score_interval(value, sd, self.level, min(R, S), highest[name])
            for (name, value), sd in zip(scores.items(), sds)
            if np.isfinite(sd)
        }
