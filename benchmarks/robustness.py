"""How what a trained PolarMask3D finds depends on the scan: spacing, noise, gaps between objects, one-sided views.

    python benchmarks/robustness.py RUN [RUN …] [--scenes 8] [--axes spacing noise gap view] [--picture robustness.png]

Scenes of objects that no run was trained on are generated as the first run's were, but for one setting; the objects and
where they stand are the same along ``spacing``, ``noise`` and ``view``. AP50 is class-agnostic, background negative,
its mean over the runs with the smallest and the largest; beside it the oracle's, the ceiling on the same points. An
instance counts from as many points as 100 of the spacing trained on are worth; the thresholds are those of the runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from segmentation import Run, clouds, found_by, load_run

from pcgen.data.scene_sets import GeneratedConfig, load_scenes
from pcgen.data.synthetic.scenes import SceneSettings
from pcgen.training.scoring import oracle_of, segmentation_scores


class Setting(NamedTuple):
    """One place along an axis."""

    label: str
    changes: dict[str, Any]  # of SceneSettings
    density: float = 1.0  # points of an object, of those it had where the runs were trained; as many times more count


class Row(NamedTuple):
    """What was found in the scenes of a setting."""

    label: str
    ap50: list[float]  # of each run
    oracle: float
    counted: int  # instances


def axes(base: SceneSettings) -> dict[str, list[Setting]]:
    """What is varied, in metres; the settings that are not, are those of ``base``."""
    apart = {"touching": 1.0, "stacked": 0.0}  # every object has a neighbour at just that distance
    fine = {"spacing": base.spacing / 2}
    views = [Setting(f"{n} sensor{'s' * (n > 1)}", {"sampling": "scan", "sensors": n, **fine}) for n in (1, 2, 4)]
    return {
        "spacing": [
            Setting(f"{x * base.spacing:.3f}", {"spacing": x * base.spacing}, x**-2) for x in (0.5, 0.7, 1, 1.4, 2, 3)
        ],
        "noise": [Setting(f"{x:g}", {"noise": x}) for x in (0.0, 0.005, 0.01, 0.02, 0.04)],
        "gap": [Setting(f"{x:g}", {"gap": x, **apart}) for x in (-0.05, 0.0, 0.05, 0.1, 0.2, 0.4)],
        "view": [*views, Setting("complete", {"sampling": "area", **fine})],
    }


def measured(runs: Sequence[Run], base: SceneSettings, setting: Setting, scenes: int) -> Row:
    config = runs[0].config
    scene = replace(base, **setting.changes)
    # One scene to train on, which is not used: without any there is no set of scenes.
    data = replace(config.data, source=None, generated=GeneratedConfig(train=1, val=0, test=scenes, scene=scene))
    sets = load_scenes(data, config.model.features, config.model.up)
    runs = [run._replace(scenes=sets) for run in runs]
    truth = clouds(runs[0], "test")
    least = max(1, round(config.evaluation.min_points * setting.density))
    scores = [segmentation_scores(found_by(run), truth, min_points=least) for run in runs]
    ceiling = oracle_of(truth, runs[0].model.rays, least).ap.ap50
    return Row(setting.label, [s.ap.ap50 for s in scores], ceiling, scores[0].ap.counted)


def table(axis: str, rows: Sequence[Row]) -> str:
    lines = [f"| {axis} | AP50 | smallest – largest | oracle | counted |", "|---|---|---|---|---|"]
    for row in rows:
        mean, low, high = (100 * f(row.ap50) for f in (np.mean, min, max))
        lines.append(f"| {row.label} | {mean:.1f} | {low:.1f} – {high:.1f} | {100 * row.oracle:.1f} | {row.counted} |")
    return "\n".join(lines)


def draw(results: dict[str, list[Row]], path: Path) -> None:
    from matplotlib.figure import Figure

    from pcgen.viz.gallery import save_figure

    figure = Figure(figsize=(3.2 * len(results), 2.8), dpi=110, layout="constrained")
    for panel, (axis, rows) in zip(figure.subplots(1, len(results), squeeze=False, sharey=True).flat, results.items()):
        ap50 = 100 * np.array([row.ap50 for row in rows])
        panel.plot([100 * row.oracle for row in rows], "--", color="0.6", label="oracle")
        panel.plot(ap50.mean(1), marker=".", label="PolarMask3D")
        panel.fill_between(range(len(rows)), ap50.min(1), ap50.max(1), alpha=0.2)
        panel.set_xticks(range(len(rows)), [row.label for row in rows], fontsize=7)
        panel.set_title(axis if axis == "view" else f"{axis}, m", fontsize=9)
        panel.set_ylim(0, 102)
        panel.grid(alpha=0.25)
    figure.axes[0].set_ylabel("AP50, %", fontsize=8)
    figure.axes[0].legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--axes", nargs="+", choices=list(axes(SceneSettings())), default=list(axes(SceneSettings())))
    parser.add_argument("--picture", type=Path, default=Path("robustness.png"))
    args = parser.parse_args()
    runs = [load_run(folder) for folder in args.runs]
    generated = runs[0].config.data.generated
    base = SceneSettings() if generated is None else generated.scene
    results = {}
    for axis in args.axes:
        results[axis] = [measured(runs, base, setting, args.scenes) for setting in axes(base)[axis]]
        print(table(axis, results[axis]), end="\n\n", flush=True)
    draw(results, args.picture)


if __name__ == "__main__":
    main()
