"""How well generated clouds match a reference set: MMD, COV, 1-NNA and JSD, measured by a named protocol.

The four scores are those of PointFlow (Yang et al., ICCV 2019, section 4), after Achlioptas et al. (ICML 2018)
and Lopez-Paz and Oquab (ICLR 2017). ``docs/metrics.md`` gives the definitions and what the protocols share.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
import torch
from torch import Tensor

from pcgen._version import __version__
from pcgen.metrics.blocks import content_hash
from pcgen.metrics.intervals import Interval, check_level
from pcgen.metrics.measurement import Measurement, StageProgress, named_scores
from pcgen.metrics.occupancy import outside_ball, warn_outside
from pcgen.metrics.protocols import EmdChoice, FrameChoice, Normalise, Protocol, fill_boxes, make_plan, normalised
from pcgen.metrics.sets import AS_IS, Clouds, DistanceScores, Frame, as_clouds, precision, unit_frame, warn_copies

__all__ = ["GenerationScores", "evaluate"]


@dataclasses.dataclass(frozen=True)
class GenerationScores:
    """What :func:`evaluate` found and how it was got; MMD is in the units of the frame it was measured in."""

    cd: DistanceScores  # squared
    emd: DistanceScores | None
    jsd: float
    intervals: dict[str, Interval]  # of the scores, by their names; a score is left out where there is none
    interval: float  # level of the intervals, 0 for none
    outside_ball: tuple[float, float]  # share of the points of samples and references, see `jsd`
    moved: float | None  # share of the mass that an annealed EMD moves, on average
    protocol: str
    choices: Protocol  # of the protocol, with what was asked for otherwise
    deviations: tuple[str, ...]  # where the measurement departs from its protocol
    frame: Frame
    counts: tuple[int, int]  # clouds: samples (of each set), references
    sets: int  # of samples, generated independently; the scores are means over them
    points: int  # of every cloud
    sha256: tuple[str, str]  # of the little-endian float64 clouds as they were given: samples, references
    names: tuple[str, str]
    device: str
    dtype: str  # that distances were computed in
    seed: int  # of the intervals and of the draw from the training clouds
    training_set: GenerationScores | None = None  # the yardstick: training clouds in the place of the samples

    @property
    def emd_variant(self) -> EmdChoice:
        return self.choices.emd

    def scores(self) -> dict[str, float]:
        """Every score under its name: ``mmd_cd``, ``mmd_cd_samples``, …, ``one_nna_emd_references``, ``jsd``."""
        return named_scores(self.cd, self.emd, self.jsd)

    def data_units(self) -> dict[str, float]:
        """The MMDs in the units of the data: lengths, squared lengths for CD and for the EMD of ``pvd``.

        Of clouds that the protocol scales one by one, these are the units after that.
        """
        power = {"cd": 2, "emd": 2 if self.emd_variant == "pvd" else 1}
        mmd = {name: value for name, value in self.scores().items() if name.startswith("mmd")}
        return {name: value / self.frame.factor ** power[name.split("_")[1]] for name, value in mmd.items()}

    def as_dict(self) -> dict:
        """Everything, ready for JSON."""
        by_side = {
            key: dict(zip(("samples", "references"), getattr(self, key))) for key in ("names", "counts", "sha256")
        }
        choices = dataclasses.asdict(self.choices)
        return {
            "scores": self.scores(),
            "interval": self.interval,
            "intervals": {name: list(found) for name, found in self.intervals.items()},
            "data_units": self.data_units(),
            "outside_ball": dict(zip(("samples", "references"), self.outside_ball)),
            "moved": self.moved,
            "protocol": self.protocol,
            "choices": {**choices, "point_range": list(self.choices.point_range)},
            "deviations": list(self.deviations),
            "emd": self.emd_variant,
            "frame": self.frame.name,
            "shift": list(self.frame.shift),
            "factor": self.frame.factor,
            **by_side,
            "sets": self.sets,
            "points": self.points,
            "device": self.device,
            "dtype": self.dtype,
            "seed": self.seed,
            "versions": {"pcgen": __version__, "torch": torch.__version__, "scipy": scipy.__version__},
            **({"training_set": self.training_set.as_dict()} if self.training_set else {}),
        }

    def table(self) -> str:
        """The scores as text: lines for the training set, where there is one, and lines for the samples."""
        rows = [self.training_set, self] if self.training_set else [self]
        order = [f"{score}_{distance}" for score in ("mmd", "cov", "one_nna") for distance in ("cd", "emd")]
        columns = [name for name in (*order, "jsd") if name in self.scores()]
        width = max(6, *(len(row.names[0]) for row in rows))
        titles = [name.upper().replace("ONE_NNA", "1-NNA").replace("_", "-") for name in columns]
        lines = [" " * width + "".join(f"{title:>11}" for title in titles)]
        for row in rows:
            lines.append(f"{row.names[0]:<{width}}" + _cells([row.scores()[name] for name in columns]))
            for i, end in enumerate(("  from", "  to")) if row.intervals else ():
                ends = [row.intervals[name][i] if name in row.intervals else None for name in columns]
                lines.append(f"{end:<{width}}" + _cells(ends))
        return "\n".join([*lines, *self._notes(columns)])

    def _notes(self, columns: list[str]) -> list[str]:
        (S, R), mmd = self.counts, self.data_units()
        several = f"means over {self.sets} sets of " if self.sets > 1 else ""
        notes = [
            f"{several}{S} clouds against {R} of {self.names[1]}, {self.points} points each",
            f"protocol {self.protocol}: EMD {self.emd_variant}, frame {self.frame.name}",
            *(f"deviation: {deviation}" for deviation in self.deviations),
        ]
        if self.intervals:
            notes.append(f"from, to: {self.interval:.0%} intervals of the expected score of sets as large")
        if self.frame.factor != 1:
            notes.append("in data units: " + ", ".join(f"{c} {mmd[c]:.4g}" for c in columns if c in mmd))
        return notes


def _cells(values: list[float | None]) -> str:
    return "".join(f"{'-':>11}" if value is None else f"{value:11.4g}" for value in values)


def evaluate(
    samples: Clouds,
    references: Clouds,
    protocol: str = "exact",
    emd: EmdChoice | None = None,
    frame: FrameChoice | None = None,
    points: int | None = None,
    training: Clouds | None = None,
    names: tuple[str, str] = ("samples", "references"),
    progress: StageProgress | None = None,
    seed: int = 0,
    *,
    normalise: Normalise | None = None,
    tolerance: float | None = None,
    interval: float = 0.9,
    cache: str | Path | None = None,
) -> GenerationScores:
    """Score ``samples`` (S, N, 3) against ``references`` (R, N, 3), arrays, tensors or sequences of clouds.

    Args:
        samples: or several sets, generated independently, (K, S, N, 3) or a sequence of arrays (S, N, 3): the scores
            are then means, and the intervals come from their spread, the references staying what they are.
        protocol: one of `PROTOCOLS`; ``"exact"`` is our recommendation, the others are for comparison with
            published numbers, and measure the clouds as they come.
        emd: another EMD than the protocol's, ``"none"`` to leave it out; listed among the deviations, as are others:
        frame: ``"unit"`` moves and scales both sets so that the references fill the ball of radius 1/2;
            ``"as-is"`` leaves them.
        normalise: of each cloud of both sets, before the frame: ``"none"``, ``"box"`` or ``"half-box"``.
        tolerance: of the exact EMD, the proven relative gap at which it may stop.
        points: take the first ``points`` of every cloud.
        training: training clouds (T, N, 3), T ≥ S; S of them, drawn by ``seed``, are scored like the samples
            and returned as ``training_set``: what a perfect generator could reach, give or take the draw.
        names: of the two sets, for messages and the table.
        progress: called as ``progress(stage, done, total)``, a stage being ``"emd references x samples"``.
        seed: of the draw from ``training`` and of the intervals.
        interval: level of the intervals of all scores, 0 for none. They are about the expected score of sets of S
            and R clouds drawn anew, see :mod:`pcgen.metrics.intervals`.
        cache: a folder for finished blocks of the distance matrices: what is there is not computed again.

    Distances are computed in float64 if clouds are given in it, in float32 otherwise (totals, frame and scores in
    float64 always), on the device of the references; under ``torchrun`` or ``accelerate launch``
    the processes share the work, on their own devices, and all return the same. S and R are any numbers from 2 up,
    but only for S = R is 1/2 the ideal 1-NNA. ``ValueError`` for an unknown protocol, emd or frame, fewer than two
    clouds, clouds of unequal size, NaN or infinity, or sets of unequal size where the protocol demands equal ones. A
    ``UserWarning`` where a cloud stands twice or in two sets, where more than 1 % of the points lie outside the ball of
    the JSD, both before the long work, and where an annealed EMD moves less than 99 % of the mass.

    >>> clouds = torch.rand(6, 32, 3, generator=torch.Generator().manual_seed(0))
    >>> scores = evaluate(clouds + 1e-3, clouds, emd="none")
    >>> scores.cd.cov, scores.cd.one_nna, scores.deviations
    (1.0, 0.0, ("EMD 'none' in place of 'exact'",))
    """
    plan = make_plan(protocol, emd, frame, normalise, tolerance)
    R = as_clouds(references, names[1], points, at_least=2)
    sets = [_like(R, names[1], as_clouds(S, names[0], points, at_least=2), names[0]) for S in _sample_sets(samples)]
    if len({len(S) for S in sets}) > 1:
        raise ValueError(f"{names[0]} must be sets of equal size, got {', '.join(str(len(S)) for S in sets)} clouds")
    deviations = plan.departures(R.shape[1], len(sets[0]), len(R), fill_boxes(R))
    T = None if training is None else _like(R, names[1], _draw(training, points, len(sets[0]), seed), "training")
    placed = normalised(R, plan.choices.normalise_references)
    own_frame = unit_frame(placed) if plan.choices.frame == "unit" else AS_IS
    measurement = Measurement(
        plan=plan,
        frame=own_frame,
        references=own_frame.place(placed),
        dtype=precision(*_sample_sets(samples), references),
        name=names[1],
        cache=None if cache is None else Path(cache),
        progress=progress,
        level=check_level(interval),
        seed=seed,
    )

    # Before the long work.
    rows = [(names[0], torch.cat(sets)), *([] if T is None else [("training", T)])]
    warn_copies([(names[1], R), *rows])
    for name, share in [
        *((name, outside_ball(measurement.placed(S))) for name, S in rows),
        (names[1], measurement.outside),
    ]:
        warn_outside(share, name)

    def score(sets: list[Tensor], name: str) -> GenerationScores:
        found = measurement.scores(*sets, name) if len(sets) == 1 else measurement.mean_scores(sets, name)
        return GenerationScores(
            cd=found.cd,
            emd=found.emd,
            jsd=found.jsd,
            intervals=found.intervals,
            interval=interval,
            outside_ball=(found.outside, measurement.outside),
            moved=found.moved,
            protocol=protocol,
            choices=plan.choices,
            deviations=deviations,
            frame=own_frame,
            counts=(len(sets[0]), len(R)),
            sets=len(sets),
            points=R.shape[1],
            sha256=(content_hash(torch.cat(sets)), content_hash(R)),
            names=(name, names[1]),
            device=str(R.device),
            dtype=str(measurement.dtype).removeprefix("torch."),
            seed=seed,
        )

    scores = score(sets, names[0])
    if T is not None:
        scores = dataclasses.replace(scores, training_set=score([T], "training"))
    _warn_of_lost_mass(scores)
    return scores


def _warn_of_lost_mass(scores: GenerationScores) -> None:
    """Where an annealed EMD says little; the line points at the caller of `evaluate`."""
    for row in [scores, scores.training_set] if scores.training_set else [scores]:
        if row.moved is not None and row.moved < 0.99:
            warnings.warn(
                f"the {row.emd_variant} EMD moves {row.moved:.1%} of the mass between {row.names[1]} and "
                f"{row.names[0]}: its levels are lengths for shapes about one unit long (the exact EMD moves all)",
                stacklevel=3,
            )


def _sample_sets(samples: Clouds) -> list[Clouds]:
    """One set or several: arrays of rank 3 in a sequence, or one of rank 4, are sets."""
    several = isinstance(samples, (np.ndarray, Tensor, Sequence)) and len(samples) > 0
    return list(samples) if several and getattr(samples[0], "ndim", None) == 3 else [samples]


def _like(R: Tensor, references: str, clouds: Tensor, name: str) -> Tensor:
    """``clouds`` on the device of R, if they have as many points."""
    if clouds.shape[1] != R.shape[1]:
        least = min(clouds.shape[1], R.shape[1])
        raise ValueError(
            f"{name} and {references} must have equally many points a cloud, got {clouds.shape[1]} "
            f"and {R.shape[1]} (points={least} takes the first {least} of each)"
        )
    return clouds.to(R.device)


def _draw(training: Clouds, points: int | None, count: int, seed: int) -> Tensor:
    """``count`` of the training clouds, without repetition: a cloud's twin would be its nearest neighbour."""
    clouds = as_clouds(training, "training", points, at_least=count)
    chosen = torch.randperm(len(clouds), generator=torch.Generator().manual_seed(seed))[:count]
    return clouds[chosen.to(clouds.device)]
