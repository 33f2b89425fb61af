"""The tables of trained PolarMask3Ds: variants trained one after the other, and runs beside what they have to beat.

    python benchmarks/segmentation.py train configs/polarmask3d/generated.yaml --out runs/variants [--seeds 3]
        [--minutes 10] [--only main sphere …] [KEY=VALUE …]
    python benchmarks/segmentation.py compare --runs main runs/a0 runs/a1 runs/a2 [--runs "without residual" runs/b0 …]
        [--set KEY=VALUE …]

``train`` runs ``pcgen train`` for each variant and seed, passing over those that are there, and interrupts what takes
longer than ``--minutes``; then it compares. ``compare`` segments the test scenes of the runs, which must be the same
(``--set data.test=[…]`` names others), and prints Markdown: means over the runs of a row and half the width of
Student's 95 % interval of that mean, so that what varies is the seed of weights and crops, not the scenes. The oracle
and DBSCAN, tuned on scenes of the training, are those of the first row.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from pcgen.config import read
from pcgen.data.scene_sets import SceneSets, load_scenes
from pcgen.models.instances import Instances
from pcgen.models.polar_targets import LabelledCloud
from pcgen.models.polarmask3d import PolarMask3D
from pcgen.models.segmenter import load_segmenter
from pcgen.models.tiling import segment_scan
from pcgen.training import SegmentationRunConfig, find_checkpoint
from pcgen.training.labelled_crops import labelled_part
from pcgen.training.scoring import SegmentationScores, clustering_scores, oracle_of, segmentation_scores

VARIANTS: dict[str, tuple[str, ...]] = {
    "main": (),
    "rays only": ("model.residual=false",),
    "sphere": ("model.sphere=true",),
    "smooth L1": ("model.loss.lengths=smooth_l1",),
    "PolarMask centerness": ("model.loss.quality_target=polarmask",),
    "quantile centerness": ("model.loss.quality_target=quantile",),
    "antipodal centerness": ("model.loss.quality_target=antipodal",),
}
LEVEL = 0.95
TUNED_ON = 8  # training scenes that clustering is tuned on, at most
TUNED_POINTS = 50_000  # of each, at most


class Run(NamedTuple):
    """A trained model and its scenes."""

    config: SegmentationRunConfig
    model: PolarMask3D
    scenes: SceneSets


def load_run(folder: Path, overrides: Sequence[str] = ()) -> Run:
    config = read(SegmentationRunConfig, folder / "config.yaml", overrides)
    scenes = load_scenes(config.data, config.model.features, config.model.up)
    return Run(config, load_segmenter(find_checkpoint(folder)).model, scenes)


def clouds(run: Run, split: str, most: int = sys.maxsize, points: int = sys.maxsize) -> list[LabelledCloud]:
    """The scenes of a split, ``most`` at most, with all their labels; of those with more ``points`` a part."""
    scenes, every = getattr(run.scenes, split), replace(run.config.data.crop, min_points=1)
    rng = np.random.default_rng(0)
    return [labelled_part(scenes[i], run.config.model, every, points, rng) for i in range(min(most, len(scenes)))]


def found_by(run: Run) -> list[Instances]:
    """What the run's model finds in its test scenes."""
    test = run.scenes.test
    return [segment_scan(run.model, test[i].scene) for i in range(len(test))]


class Spread(NamedTuple):
    """The mean of independent values and half of its interval, NaN of a single one; in per cent."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        x = 100 * np.asarray(values)
        n = len(x)
        half = student.ppf((1 + LEVEL) / 2, n - 1) * x.std(ddof=1) / n**0.5 if n > 1 else np.nan
        return cls(float(x.mean()), float(half))

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if np.isnan(self.half) else f"{self.mean:.1f} ± {self.half:.1f}"


def compare(rows: Mapping[str, Sequence[Path]], overrides: Sequence[str] = ()) -> None:
    """Prints the table of the runs of each row."""
    main = next(iter(rows))
    first = load_run(rows[main][0], overrides)
    test, least, classes = clouds(first, "test"), first.config.evaluation.min_points, first.config.model.classes
    if not test:
        raise ValueError(f"{rows[main][0]} has no test scenes: name them with --set 'data.test=[…]'")
    scores: dict[str, list[SegmentationScores]] = {name: [] for name in rows}
    for name, folders in rows.items():
        for folder in folders:
            run = load_run(folder, overrides)
            if run.scenes.test.names != first.scenes.test.names or run.config.model.classes != classes:
                raise ValueError(f"{folder} has other test scenes or classes than {rows[main][0]}")
            scores[name].append(segmentation_scores(found_by(run), test, classes, least))
            if name == main:
                tuned_on = clouds(run, "train", TUNED_ON, TUNED_POINTS)
                for rival, found in clustering_scores(run.model, tuned_on, test, least).items():
                    scores.setdefault(rival, []).append(found)
    ap = scores[main][0].ap
    kinds = "class-agnostic" if classes == 1 else f"mean over {classes} classes, clustering and oracle class-agnostic"
    print(
        f"{len(test)} test scenes, {ap.counted} instances of at least {least} points counted, {ap.ignored} smaller "
        f"ones not; background negative; {kinds}; mean over runs ± half of Student's {LEVEL:.0%} interval\n"
    )
    print("| | runs | AP | AP50 | AP25 | PQ | found |\n|---|---|---|---|---|---|---|")
    for name, of_runs in scores.items():
        columns = [[getattr(s.ap, key) for s in of_runs] for key in ("ap", "ap50", "ap25")]
        columns.append([s.pq.pq for s in of_runs])
        found = np.mean([s.ap.predictions for s in of_runs])
        print(f"| {name} | {len(of_runs)} | {' | '.join(str(Spread.of(c)) for c in columns)} | {found:.0f} |")
    ceiling = oracle_of(test, first.model.rays, least).ap
    print(f"| oracle, {first.model.rays.name} | | {100 * ceiling.ap:.1f} | {100 * ceiling.ap50:.1f} | ", end="")
    print(f"{100 * ceiling.ap25:.1f} | | |\n")
    for name, of_runs in list(scores.items())[1:]:
        if len(of_runs) == len(scores[main]):
            gain = Spread.of([a.ap.ap50 - b.ap.ap50 for a, b in zip(scores[main], of_runs)])
            print(f"- AP50 of {main} less that of {name}, run by run: {gain}")


def train(args: argparse.Namespace) -> dict[str, list[Path]]:
    """Trains each variant with each seed; returns the runs that have a checkpoint."""
    runs: dict[str, list[Path]] = {name: [] for name in args.only}
    for seed in range(args.seeds):
        for name in args.only:
            folder = args.out / f"{name.replace(' ', '_')}-{seed}"
            if not (folder / "metrics.json").exists():
                train_one([args.config, *args.settings, *VARIANTS[name], f"training.seed={seed}"], folder, args.minutes)
            if (folder / "checkpoints").is_dir():
                runs[name].append(folder)
    return {name: folders for name, folders in runs.items() if folders}


def train_one(settings: Sequence[str], folder: Path, minutes: float) -> None:
    """``pcgen train`` in a process of its own, interrupted between two steps when its time is up."""
    command = [sys.executable, "-m", "pcgen", "train", *settings, "--out", str(folder), "--quiet", "--overwrite"]
    process = subprocess.Popen(command)
    try:
        process.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        print(f"{folder}: stopped after {minutes:g} minutes, its thresholds are not tuned", flush=True)
        process.send_signal(signal.SIGINT)
        process.wait()
    if process.returncode not in (0, 130):
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    trained = commands.add_parser("train", help="train the variants, then compare them")
    trained.add_argument("config")
    trained.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    trained.add_argument("--out", type=Path, required=True)
    trained.add_argument("--seeds", type=int, default=3)
    trained.add_argument("--minutes", type=float, default=10, help="for each run")
    trained.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    compared = commands.add_parser("compare", help="print the table of runs that are there")
    compared.add_argument("--runs", nargs="+", action="append", required=True, metavar=("NAME", "RUN"))
    compared.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all runs")
    args = parser.parse_args()
    if args.command == "train":
        compare(train(args))
    else:
        compare({name: [Path(folder) for folder in folders] for name, *folders in args.runs}, args.set)


if __name__ == "__main__":
    main()
