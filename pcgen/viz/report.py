"""One page about a measurement: scores with intervals, neighbours to look at, and published numbers where allowed."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from pcgen.data.files import replacing
from pcgen.metrics import GenerationScores, Memorisation
from pcgen.metrics.protocols import normalised
from pcgen.metrics.published import compare
from pcgen.metrics.sets import as_clouds
from pcgen.ops import chamfer_matrix
from pcgen.viz.gallery import gallery

__all__ = ["report"]

COLUMNS = 8  # shapes in a strip
POINTS = 2048  # of a cloud that are drawn

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .8em; text-align: right; }
th { border-bottom: 1px solid #888; font-weight: 600; } td:first-child, th:first-child { text-align: left; }
.own { background: #eef4fb; } small { color: #666; display: block; } img { max-width: 100%; }
.refusal { border-left: 4px solid #c60; padding: .3em 1em; background: #fff6ec; }
dt { font-weight: 600; } dd { margin: 0 0 .4em 1.5em; overflow-wrap: anywhere; }
"""

_TITLES = {
    **{"mmd_cd": "MMD-CD", "mmd_emd": "MMD-EMD", "cov_cd": "COV-CD", "cov_emd": "COV-EMD"},
    **{"one_nna_cd": "1-NNA-CD", "one_nna_emd": "1-NNA-EMD", "jsd": "JSD"},
}


def report(
    scores: GenerationScores,
    samples: Sequence[ArrayLike],
    references: Sequence[ArrayLike],
    path: str | Path,
    *,
    training: Sequence[ArrayLike] | None = None,
    memorised: Memorisation | None = None,
    category: str = "",
    up: str = "y",
) -> Path:
    """Write ``scores`` and pictures as one HTML page that needs nothing else, and return its path.

    Eight of the ``samples`` (N, 3) stand above the nearest of the ``references`` and of the ``training`` clouds, by the
    Chamfer distance between as many points, normalised as the protocol has it; where ``memorised`` is given, so do the
    eight samples that come nearest to a training shape. ``category`` names the ShapeNet category whose published
    numbers the scores may be put beside; if they may not, the page says why. ``ValueError`` for clouds that
    :func:`pcgen.metrics.evaluate` would refuse.
    """
    parts = [
        f"<h1>{_text(scores.names[0])} against {_text(scores.names[1])}</h1>",
        _scores_table(scores),
        _circumstances(scores),
        *([f"<h2>Copies</h2><p>{_text(str(memorised))}.</p>"] if memorised else []),
        "<h2>Nearest neighbours</h2>",
        *_strips(scores, samples, references, training, memorised, up),
        "<h2>Among published numbers</h2>",
        _published(scores, category),
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(scores.names[0])}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as stream:
        stream.write(page.encode())
    return Path(path)


def _scores_table(scores: GenerationScores) -> str:
    rows = [scores, scores.training_set] if scores.training_set else [scores]
    columns = [name for name in _TITLES if name in scores.scores()]
    lines = [_row(["", *(_TITLES[name] for name in columns)], "th")]
    for row in rows:
        cells = [_text(row.names[0])]
        for name in columns:
            found = row.intervals.get(name)
            between = f"<small>{found.low:.3g} – {found.high:.3g}</small>" if found else ""
            cells.append(f"{row.scores()[name]:.4g}{between}")
        lines.append(_row(cells, mark="own" if row is scores else ""))
    note = (
        f"In small print: {scores.interval:.0%} intervals of the expected score of sets as large. "
        if rows[0].intervals
        else ""
    )
    yardstick = (
        "The training row has training shapes in the place of the samples: a generator far from it is wrong, one far "
        "below it in 1-NNA copies or is mismeasured."
        if scores.training_set
        else "No training shapes were given: there is no yardstick here."
    )
    return f"<table>{''.join(lines)}</table><p>{note}COV, 1-NNA, JSD are fractions; 1-NNA is best at ½. {yardstick}</p>"


def _circumstances(scores: GenerationScores) -> str:
    (S, R), factor, choices = scores.counts, scores.frame.factor, scores.choices
    several = f"{scores.sets} sets of " if scores.sets > 1 else ""
    facts = {
        "sets": f"{several}{S} samples, {R} references, {scores.points} points each",
        "protocol": scores.protocol,
        "EMD": scores.emd_variant + (f", moving {scores.moved:.1%} of the mass" if scores.moved is not None else ""),
        "frame": scores.frame.name + (f", lengths × {factor:.4g}" if factor != 1 else ""),
        "normalisation": f"samples {choices.normalise_samples}, references {choices.normalise_references}",
        "deviations from the protocol": "; ".join(scores.deviations) or "none",
        "points outside the ball of the JSD": "samples {:.1%}, references {:.1%}".format(*scores.outside_ball),
        "SHA-256 of the samples": scores.sha256[0],
        "SHA-256 of the references": scores.sha256[1],
    }
    return "<dl>" + "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items()) + "</dl>"


def _strips(
    scores: GenerationScores,
    samples: Sequence,
    references: Sequence,
    training: Sequence | None,
    memorised: Memorisation | None,
    up: str,
) -> list[str]:
    choices, points = scores.choices, scores.points
    sets = [("samples", samples, choices.normalise_samples), ("references", references, choices.normalise_references)]
    if training is not None:
        sets.append(("training", training, choices.normalise_samples))
    # As they were measured, but for the frame, which is the same for all.
    S, R, *T = (normalised(as_clouds(clouds, name, points), how) for name, clouds, how in sets)
    even = np.linspace(0, len(S) - 1, min(COLUMNS, len(S))).astype(int)
    strips = [_strip("Samples at even distances in the set", S[even], R, *T, up=up)]
    if memorised:
        closest = np.argsort(memorised.samples, kind="stable")[:COLUMNS]
        strips.append(_strip("The samples that come nearest to a training shape", S[closest], R, *T, up=up))
    return strips


def _strip(title: str, chosen: Tensor, R: Tensor, T: Tensor | None = None, *, up: str) -> str:
    """A picture of the chosen samples above their nearest neighbours."""
    rows = {"sample": chosen, "nearest reference": R[chamfer_matrix(chosen, R).argmin(1)]}
    if T is not None:
        rows["nearest training shape"] = T[chamfer_matrix(chosen, T).argmin(1)]
    with tempfile.TemporaryDirectory() as folder:
        clouds = {label: np.asarray(row[:, :POINTS]) for label, row in rows.items()}
        picture = gallery(clouds, Path(folder) / "strip.png", columns=COLUMNS, up=up).read_bytes()
    data = base64.b64encode(picture).decode()
    return f'<h3>{_text(title)}</h3><img alt="{_text(", ".join(rows))}" src="data:image/png;base64,{data}">'


def _published(scores: GenerationScores, category: str) -> str:
    found = compare(scores, category)
    if found.refusal:
        return f'<p class="refusal">Not compared: {_text(found.refusal)}.</p>'
    own = {name: value for name, value in scores.scores().items() if name in _TITLES}
    rows = [(row.model, row.scores, row.source) for row in found.rows] + [(scores.names[0], own, "this measurement")]
    rows.sort(key=lambda row: abs(row[1]["one_nna_cd"] - 0.5))
    lines = [_row(["", *(_TITLES[name] for name in own), "source"], "th")]
    for model, values, source in rows:
        cells = [f"{values[name]:.4g}" if name in values else "–" for name in own]
        mark = "own" if source == "this measurement" else ""
        lines.append(_row([_text(model), *cells, f"<small>{_text(source)}</small>"], mark=mark))
    return (
        f"<table>{''.join(lines)}</table><p>Protocol {_text(scores.protocol)}, {_text(category)}, the best 1-NNA-CD "
        f"first. It is for you to know that the references are the published ones. A difference that is small beside "
        f"the intervals above is noise.</p>"
    )


def _row(cells: Sequence[str], tag: str = "td", mark: str = "") -> str:
    opening = f'<tr class="{mark}">' if mark else "<tr>"
    return opening + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _text(words: str) -> str:
    return html.escape(words)
