"""Published scores, and when a measurement may be put beside them."""

from __future__ import annotations

from typing import NamedTuple

from pcgen.metrics.generation import GenerationScores

__all__ = ["PUBLISHED", "Comparison", "Published", "compare"]


class Published(NamedTuple):
    """One row of somebody's table; MMD is not multiplied."""

    model: str
    protocol: str
    category: str  # of ShapeNetCore.v2.PC15k
    clouds: int  # samples, and references
    scores: dict[str, float]
    source: str


class Comparison(NamedTuple):
    """Rows that a measurement may be put beside, or in words why there are none."""

    rows: tuple[Published, ...]
    refusal: str | None


def _scores(
    mmd_cd: float, mmd_emd: float, cov_cd: float, cov_emd: float, nna_cd: float, nna_emd: float, **jsd: float
) -> dict[str, float]:
    return {
        **{"mmd_cd": mmd_cd, "mmd_emd": mmd_emd, "cov_cd": cov_cd, "cov_emd": cov_emd},
        **{"one_nna_cd": nna_cd, "one_nna_emd": nna_emd, **jsd},
    }


_LION = "nv-tlabs/LION, script/compute_score.py, comments"
_PVD = "alexzhou907/PVD, issue 4: PVD's samples measured by a reader with both programs"

# Only numbers that were found in the source named beside them.
PUBLISHED = (
    Published(
        *("PointFlow", "pointflow", "airplane", 405),
        _scores(0.000217, 0.0324, 0.4691, 0.4840, 0.7568, 0.7506, jsd=0.0492),
        "Yang et al., ICCV 2019, table 1, as quoted in stevenygd/PointFlow, issues 26 and 13",
    ),
    Published(
        *("SetVAE", "pointflow", "airplane", 405),
        _scores(0.000199, 0.0307, 0.4345, 0.4493, 0.7531, 0.7765),
        "Kim et al., CVPR 2021, as quoted in jacklyonlee/pcgan, README",
    ),
    Published(
        *("PVD", "pointflow", "airplane", 405),
        _scores(0.000229, 0.0310, 0.4963, 0.5185, 0.7259, 0.6741, jsd=0.0457),
        _PVD,
    ),
    Published(
        *("PVD", "pvd", "airplane", 405),
        _scores(0.000229, 0.00357, 0.4963, 0.4765, 0.7259, 0.6148, jsd=0.0457),
        _PVD,
    ),
    Published(
        *("LION", "lion", "airplane", 405),
        _scores(0.000221, 0.003706, 0.471605, 0.496296, 0.674074, 0.612346, jsd=0.060703),
        f"{_LION} (the last of three, headed chair; 405 clouds and the paper's 67.41 % say airplane)",
    ),
    Published(
        *("LION", "lion", "chair", 662),
        _scores(0.002643, 0.015516, 0.489426, 0.521148, 0.537009, 0.523414, jsd=0.013535),
        _LION,
    ),
    Published(
        *("LION", "lion", "car", 352),
        _scores(0.000913, 0.007523, 0.500000, 0.565341, 0.534091, 0.511364, jsd=0.009229),
        _LION,
    ),
)


def compare(scores: GenerationScores, category: str) -> Comparison:
    """The published rows of the same protocol, category and size, if the measurement keeps to its protocol.

    Scores depend on the EMD, the frame, the points of a cloud and the numbers of clouds: what differs in one of them
    is not compared. That the references are the published ones is for the caller to know.
    """
    rows = tuple(row for row in PUBLISHED if row.protocol == scores.protocol)
    if not rows:
        return _refused(
            f"none of protocol {scores.protocol!r} are kept here, and those of other protocols do not compare"
        )
    if scores.deviations:
        return _refused("the measurement departs from its protocol: " + "; ".join(scores.deviations))
    there = sorted({row.category for row in rows})
    if category not in there:
        given = f"none of category {category!r}" if category else "no category was named"
        return _refused(f"published numbers of protocol {scores.protocol!r} are of {', '.join(there)}: {given}")
    rows = tuple(row for row in rows if row.category == category)
    if scores.counts != (rows[0].clouds,) * 2:
        S, R = scores.counts
        return _refused(
            f"the published numbers are of {rows[0].clouds} samples and as many references, these of {S} and {R}: "
            f"MMD, COV and 1-NNA change with the number of clouds"
        )
    return Comparison(rows, None)


def _refused(why: str) -> Comparison:
    return Comparison((), why)
