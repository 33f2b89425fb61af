"""How well generated clouds match a reference set: MMD, COV, 1-NNA and JSD, measured by a named protocol.

The four scores are those of PointFlow (Yang et al., ICCV 2019, section 4), after Achlioptas et al. (ICML 2018)
and Lopez-Paz and Oquab (ICLR 2017). ``docs/metrics.md`` gives the definitions and what the protocols share.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
from collections.abc import Callable
from typing import Literal, get_args

import scipy
import torch
from torch import Tensor

from pcgen import ops
from pcgen._version import __version__
from pcgen.metrics.sets import Clouds, DistanceScores, Frame, as_clouds, distance_scores, jsd, outside_ball, unit_frame

__all__ = ["PROTOCOLS", "GenerationScores", "Protocol", "evaluate"]

EmdChoice = Literal["exact", "pointflow", "pvd", "none"]
FrameChoice = Literal["unit", "as-is"]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a published row of numbers was measured with."""

    emd: EmdChoice
    frame: FrameChoice


PROTOCOLS = {
    "exact": Protocol(emd="exact", frame="unit"),  # our recommendation
    "pointflow": Protocol(emd="pointflow", frame="as-is"),
    "pvd": Protocol(emd="pvd", frame="as-is"),
}


@dataclasses.dataclass(frozen=True)
class GenerationScores:
    """What :func:`evaluate` found and how it was got; MMD is in the units of the frame it was measured in."""

    cd: DistanceScores  # squared
    emd: DistanceScores | None
    jsd: float
    outside_ball: tuple[float, float]  # share of the points of samples and references, see `jsd`
    protocol: str
    emd_variant: EmdChoice
    frame: Frame
    counts: tuple[int, int]  # clouds: samples, references
    points: int  # of every cloud
    sha256: tuple[str, str]  # of the little-endian float64 clouds before the frame: samples, references
    names: tuple[str, str]
    deviations: tuple[str, ...]  # where the measurement departs from its protocol
    device: str
    seed: int | None = None  # of the draw, if these clouds were drawn from a larger set
    training_set: GenerationScores | None = None  # the yardstick: training clouds in the place of the samples

    def scores(self) -> dict[str, float]:
        """Every score under its name: ``mmd_cd``, ``mmd_cd_samples``, …, ``one_nna_emd_references``, ``jsd``."""
        named = {}
        for distance, scores in (("cd", self.cd), ("emd", self.emd)):
            for field, value in scores._asdict().items() if scores else ():
                measure = field.removesuffix("_samples").removesuffix("_references")
                named[f"{measure}_{distance}{field.removeprefix(measure)}"] = value
        return {**named, "jsd": self.jsd}

    def data_units(self) -> dict[str, float]:
        """The MMDs in the units of the data: lengths, squared lengths for CD and for the EMD of ``pvd``."""
        power = {"cd": 2, "emd": 2 if self.emd_variant == "pvd" else 1}
        mmd = {name: value for name, value in self.scores().items() if name.startswith("mmd")}
        return {name: value / self.frame.factor ** power[name.split("_")[1]] for name, value in mmd.items()}

    def as_dict(self) -> dict:
        """Everything, ready for JSON."""
        by_side = {
            key: dict(zip(("samples", "references"), getattr(self, key))) for key in ("names", "counts", "sha256")
        }
        return {
            "scores": self.scores(),
            "data_units": self.data_units(),
            "outside_ball": dict(zip(("samples", "references"), self.outside_ball)),
            "protocol": self.protocol,
            "emd": self.emd_variant,
            "frame": self.frame.name,
            "shift": list(self.frame.shift),
            "factor": self.frame.factor,
            **by_side,
            "points": self.points,
            "deviations": list(self.deviations),
            "device": self.device,
            "seed": self.seed,
            "versions": {"pcgen": __version__, "torch": torch.__version__, "scipy": scipy.__version__},
            **({"training_set": self.training_set.as_dict()} if self.training_set else {}),
        }

    def table(self) -> str:
        """The scores as text: a line for the training set, where there is one, and a line for the samples."""
        rows = [self.training_set, self] if self.training_set else [self]
        order = [f"{score}_{distance}" for score in ("mmd", "cov", "one_nna") for distance in ("cd", "emd")]
        columns = [name for name in (*order, "jsd") if name in self.scores()]
        width = max(len(row.names[0]) for row in rows)
        titles = [name.upper().replace("ONE_NNA", "1-NNA").replace("_", "-") for name in columns]
        lines = [" " * width + "".join(f"{title:>11}" for title in titles)]
        for row in rows:
            scores = row.scores()
            lines.append(f"{row.names[0]:<{width}}" + "".join(f"{scores[name]:11.4g}" for name in columns))
        (S, R), mmd = self.counts, self.data_units()
        lines += [
            f"{S} clouds against {R} {self.names[1]}, {self.points} points each",
            f"protocol {self.protocol}: EMD {self.emd_variant}, frame {self.frame.name}",
            *(f"deviation: {deviation}" for deviation in self.deviations),
        ]
        if self.frame.factor != 1:
            lines.append("in data units: " + ", ".join(f"{c} {mmd[c]:.4g}" for c in columns if c in mmd))
        return "\n".join(lines)


def evaluate(
    samples: Clouds,
    references: Clouds,
    protocol: str = "exact",
    emd: EmdChoice | None = None,
    frame: FrameChoice | None = None,
    points: int | None = None,
    training: Clouds | None = None,
    names: tuple[str, str] = ("samples", "references"),
    progress: Callable[[str, int, int], object] | None = None,
    seed: int = 0,
) -> GenerationScores:
    """Score ``samples`` (S, N, 3) against ``references`` (R, N, 3), arrays, tensors or sequences of clouds.

    Args:
        protocol: one of `PROTOCOLS`; ``"exact"`` is our recommendation, the others are for comparison with
            published numbers, and measure the clouds as they come.
        emd: another EMD than the protocol's, ``"none"`` to leave it out; listed among the deviations.
        frame: ``"unit"`` moves and scales both sets so that the references fill the ball of radius 1/2;
            ``"as-is"`` leaves them. Another one than the protocol's is listed among the deviations.
        points: take the first ``points`` of every cloud.
        training: training clouds (T, N, 3), T ≥ S; S of them, drawn by ``seed``, are scored like the samples
            and returned as ``training_set``: what a perfect generator could reach, give or take the draw.
        names: of the two sets, for messages and the table.
        progress: called as ``progress(stage, done, total)``, a stage being ``"emd references x samples"``.
        seed: of the draw from ``training``.

    Everything is computed in float64, on the device of the references. S and R are any numbers from 2 up, but
    only for S = R is 1/2 the ideal 1-NNA. ``ValueError`` for an unknown protocol, emd or frame, fewer than two
    clouds, clouds of unequal size, NaN or infinity.

    >>> clouds = torch.rand(6, 16, 3, generator=torch.Generator().manual_seed(0))
    >>> scores = evaluate(clouds, clouds, emd="none")
    >>> scores.cd.cov, scores.cd.one_nna, scores.deviations
    (1.0, 0.0, ("EMD 'none' in place of 'exact'",))
    """
    plan, deviations = _plan(protocol, emd, frame)
    R = as_clouds(references, names[1], points, at_least=2)
    S = _like(R, names[1], as_clouds(samples, names[0], points, at_least=2), names[0])
    T = None
    if training is not None:
        T = _like(R, names[1], _draw(training, points, len(S), seed), "training")
    placed = unit_frame(R) if plan.frame == "unit" else Frame("as-is", (0.0, 0.0, 0.0), 1.0)
    reference = _place(R, placed)

    def distances(X: Tensor, Y: Tensor, stage: str) -> dict[str, Tensor]:
        on_cd, on_emd = (progress and functools.partial(progress, f"{kind} {stage}") for kind in ("cd", "emd"))
        found = {"cd": ops.chamfer_matrix(X, Y, progress=on_cd)}
        if plan.emd != "none":
            found["emd"] = ops.emd_matrix(X, Y, plan.emd, on_emd).value
        return found

    rr = distances(reference, reference, f"{names[1]} x {names[1]}")

    def score(clouds: Tensor, name: str) -> GenerationScores:
        X = _place(clouds, placed)
        rs, ss = distances(reference, X, f"{names[1]} x {name}"), distances(X, X, f"{name} x {name}")
        found = {kind: distance_scores(rr[kind], rs[kind], ss[kind]) for kind in rr}
        return GenerationScores(
            cd=found["cd"],
            emd=found.get("emd"),
            jsd=jsd(X, reference, (name, names[1])),
            outside_ball=(outside_ball(X), outside_ball(reference)),
            protocol=protocol,
            emd_variant=plan.emd,
            frame=placed,
            counts=(len(X), len(R)),
            points=X.shape[1],
            sha256=(_sha256(clouds), _sha256(R)),
            names=(name, names[1]),
            deviations=deviations,
            device=str(R.device),
        )

    scores = score(S, names[0])
    if T is None:
        return scores
    yardstick = dataclasses.replace(score(T, "training"), seed=seed)
    return dataclasses.replace(scores, training_set=yardstick)


def _plan(protocol: str, emd: str | None, frame: str | None) -> tuple[Protocol, tuple[str, ...]]:
    """The protocol with what the caller wants otherwise, and a line for each such deviation."""
    standard = PROTOCOLS[_one_of("protocol", protocol, tuple(PROTOCOLS))]
    wanted = Protocol(
        emd=_one_of("emd", standard.emd if emd is None else emd, get_args(EmdChoice)),
        frame=_one_of("frame", standard.frame if frame is None else frame, get_args(FrameChoice)),
    )
    deviations = []
    if wanted.emd != standard.emd:
        deviations.append(f"EMD {wanted.emd!r} in place of {standard.emd!r}")
    if wanted.frame != standard.frame:
        deviations.append(f"frame {wanted.frame!r} in place of {standard.frame!r}")
    return wanted, tuple(deviations)


def _one_of(name: str, value: str, legal: tuple[str, ...]) -> str:
    if value not in legal:
        near = difflib.get_close_matches(str(value), legal, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name} must be one of {', '.join(legal)}, got {value!r} (nearest: {near!r})")
    return value


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


def _place(clouds: Tensor, frame: Frame) -> Tensor:
    return (clouds - clouds.new_tensor(frame.shift)) * frame.factor


def _sha256(clouds: Tensor) -> str:
    return hashlib.sha256(clouds.cpu().numpy().astype("<f8").tobytes()).hexdigest()
