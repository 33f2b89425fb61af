"""What the field's tables were measured with, as named lists of choices."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Literal, get_args

import torch
from torch import Tensor

from pcgen.metrics.sets import Clouds, as_clouds, precision

__all__ = [
    "PROTOCOLS",
    "EmdChoice",
    "FrameChoice",
    "Normalise",
    "Plan",
    "Protocol",
    "fill_boxes",
    "make_plan",
    "normalised",
    "one_of",
    "pc15k_references",
]

EmdChoice = Literal["exact", "pointflow", "pvd", "none"]
FrameChoice = Literal["unit", "as-is"]
# Each cloud for itself: "box" brings its bounding box to the middle and its longest side to [−1, 1], "half-box" to
# [−1/2, 1/2]; "whole-box" is "box" found from all points of a PC15k file, and leaves bare arrays as they are.
Normalise = Literal["none", "box", "half-box", "whole-box"]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The choices behind a published row of numbers; the last three concern folders of PC15k only."""

    emd: EmdChoice
    tolerance: float = 0.0  # of the exact EMD: the proven relative gap at which it may stop
    frame: FrameChoice = "as-is"
    normalise_samples: Normalise = "none"
    normalise_references: Normalise = "none"
    points: int | None = 2048  # of every cloud; None: any number
    clouds: int | None = None  # references; None: any number
    equal_sets: bool = False  # the program cuts the samples to the number of references, and needs as many
    cd: str = "squared, two means, summed"
    orientation: str = "reference left of sample, row left within a set"
    split: str = "val"
    point_range: tuple[int, int] = (10000, 12048)


PROTOCOLS = {
    "exact": Protocol(emd="exact", frame="unit", points=None),  # our recommendation
    "pointflow": Protocol(emd="pointflow"),  # Yang et al., ICCV 2019
    "pvd": Protocol(emd="pvd"),  # Zhou et al., ICCV 2021
    "lion": Protocol(emd="pvd", equal_sets=True, point_range=(0, 2048)),  # Zeng et al., NeurIPS 2022
    "lion-box": Protocol(  # the same, on clouds that are scaled one by one
        emd="pvd",
        normalise_samples="half-box",
        normalise_references="half-box",
        clouds=1000,
        equal_sets=True,
        point_range=(0, 2048),
    ),
    "dpm": Protocol(  # Luo and Hu, CVPR 2021
        emd="none", normalise_samples="box", normalise_references="box", equal_sets=True, split="test"
    ),
    "shapegf": Protocol(emd="pointflow", normalise_references="whole-box"),  # Cai et al., ECCV 2020
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A protocol as it is carried out: with what the caller wants otherwise."""

    name: str
    choices: Protocol
    deviations: tuple[str, ...]

    def departures(self, points: int, samples: int, references: int, scaled: bool = True) -> tuple[str, ...]:
        """The deviations, and what the data themselves depart in; ``scaled``: whether references fill their boxes.

        Raises:
            ValueError: the protocol demands as many samples as references.
        """
        choices, found = self.choices, list(self.deviations)
        if choices.equal_sets and samples != references:
            raise ValueError(
                f"protocol {self.name} compares as many samples as references, got {samples} and {references}"
            )
        if choices.points not in (None, points):
            found.append(f"{points} points a cloud in place of {choices.points}")
        if choices.clouds not in (None, references):
            found.append(f"{references} references in place of {choices.clouds}")
        if choices.normalise_references == "whole-box" and not scaled:
            found.append("references that are not scaled by the boxes of whole shapes, as pc15k_references does it")
        if samples != references:
            found.append(f"{samples} samples against {references} references: 1/2 is not the ideal 1-NNA")
        return tuple(found)


def make_plan(
    protocol: str,
    emd: str | None = None,
    frame: str | None = None,
    normalise: str | None = None,
    tolerance: float | None = None,
) -> Plan:
    """The protocol with what the caller wants otherwise, ``normalise`` being for both sides.

    >>> make_plan("pvd", emd="exact").deviations
    ("EMD 'exact' in place of 'pvd'",)
    >>> make_plan("pfd")
    Traceback (most recent call last):
    ValueError: protocol must be one of exact, ..., shapegf, got 'pfd' (nearest: 'pvd')
    """
    standard = PROTOCOLS[one_of("protocol", protocol, tuple(PROTOCOLS))]
    wanted: dict[str, str | float] = {}
    if emd is not None:
        wanted["emd"] = one_of("emd", emd, get_args(EmdChoice))
    if frame is not None:
        wanted["frame"] = one_of("frame", frame, get_args(FrameChoice))
    if normalise is not None:
        own = one_of("normalise", normalise, ("none", "box", "half-box"))  # "whole-box" takes more than is left here
        wanted |= {"normalise_samples": own, "normalise_references": own}
    if tolerance is not None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be a relative gap in [0, 1), got {tolerance}")
        if tolerance and wanted.get("emd", standard.emd) != "exact":
            raise ValueError(
                f"tolerance belongs to the exact EMD, got {tolerance} for {wanted.get('emd', standard.emd)!r}"
            )
        wanted["tolerance"] = tolerance
    deviations = []
    for field, value in wanted.items():
        if value != getattr(standard, field):
            named = field.replace("emd", "EMD").replace("_", " of the ").replace("normalise", "normalisation")
            deviations.append(f"{named} {value!r} in place of {getattr(standard, field)!r}")
    return Plan(protocol, dataclasses.replace(standard, **wanted), tuple(deviations))


def normalised(clouds: Tensor, how: Normalise) -> Tensor:
    """Each of the clouds (S, N, 3) in its own box; "whole-box" is done before, by :func:`pc15k_references`."""
    if how in ("none", "whole-box"):
        return clouds
    low, high = clouds.amin(1, keepdim=True), clouds.amax(1, keepdim=True)
    half = (high - low).amax(2, keepdim=True) / 2
    if not half.all():
        raise ValueError(f"cloud {(half == 0).nonzero()[0, 0].item()} is one point and has no box to be scaled by")
    return (clouds - (low + high) / 2) / half * (0.5 if how == "half-box" else 1.0)


def fill_boxes(clouds: Tensor) -> bool:
    """Whether clouds (R, N, 3) can be points of shapes that were scaled by "whole-box".

    All lie in [−1, 1] and reach beyond 0.6, as a part of a shape does unless it leaves an end out.

    >>> fill_boxes(torch.tensor([[[-0.97, 0.1, 0.0], [0.99, 0.0, 0.2]]])), fill_boxes(torch.zeros(1, 2, 3))
    (True, False)
    """
    reach = clouds.abs().amax((1, 2))
    return bool(((reach > 0.6) & (reach < 1 + 1e-6)).all())


def pc15k_references(
    clouds: Clouds, protocol: str, points: int | None = None, normalise: Normalise | None = None
) -> Tensor:
    """The points (R, N, 3) that the protocol measures against, of whole PC15k clouds, 15,000 points each.

    ``points`` takes another number of them, from the same first one; ``normalise`` overrides the protocol's.
    ``ValueError`` for an unknown protocol and for clouds that end before the last point.

    >>> whole = torch.arange(15000.0)[:, None].expand(2, -1, 3)
    >>> pc15k_references(whole, "pointflow")[0, [0, -1], 0]
    tensor([10000., 12047.])
    """
    choices = make_plan(protocol).choices
    if normalise is not None:
        one_of("normalise", normalise, get_args(Normalise))
    by_whole_box = (choices.normalise_references if normalise is None else normalise) == "whole-box"
    first, last = choices.point_range
    last = last if points is None else first + points
    parts = []
    for i, cloud in enumerate(clouds):
        whole = as_clouds([cloud], f"references[{i}]")
        if whole.shape[1] < last:
            raise ValueError(
                f"references[{i}] must have the points {first}:{last} of protocol {protocol}, got {whole.shape[1]}"
            )
        whole = normalised(whole, "box" if by_whole_box else "none")
        parts.append(whole[0, first:last])
    return torch.stack(parts).to(precision(clouds))


def one_of(name: str, value: str, legal: tuple[str, ...]) -> str:
    """``value`` itself, if it is legal; ``ValueError`` with the nearest legal one otherwise."""
    if value not in legal:
        near = difflib.get_close_matches(str(value), legal, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name} must be one of {', '.join(legal)}, got {value!r} (nearest: {near!r})")
    return value
