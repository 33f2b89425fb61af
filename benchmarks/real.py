"""Trained runs against the shapes that training has not seen, as docs/results.md has them.

    python benchmarks/real.py runs/bodies runs/bricks [--sets 5] [--points 2048] [--pictures docs/pictures]

References are the validation and the test shapes, all of them; as many shapes are generated, in ``--sets`` independent
sets, whose means are printed with 90 % intervals, and as many training shapes are drawn as often for the row beside
them. Then: distances to the nearest training shape, reconstructions, quality
at few solver evaluations, and, where the model is told classes, whether its samples are of the class that was asked
for. Chamfer distances of all sets, the EMD (proven to 0.1 %) of the first ``--emd-sets``.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from generate import COST, report

from pcgen.config import from_dict, read_yaml
from pcgen.data import Shapes, ShapeSplit, load
from pcgen.metrics import GenerationScores, evaluate, linear_probe, memorisation, raw_moments, reconstruction
from pcgen.models import PointFlow
from pcgen.ops import chamfer_matrix
from pcgen.training import RunConfig, find_checkpoint, load_model
from pcgen.viz import gallery

COLUMNS = ("mmd_cd", "mmd_emd", "cov_cd", "cov_emd", "one_nna_cd", "one_nna_emd", "jsd")
GUIDANCE = (0.0, 1.0, 2.0, 4.0)


def unseen_of(shapes: Shapes) -> ShapeSplit:
    """The validation and the test shapes."""
    fields = ("names", "categories", "clouds")
    return ShapeSplit(*(getattr(shapes.val, name) + getattr(shapes.test, name) for name in fields))


class Run(NamedTuple):
    """A trained model, and the shapes where it makes them: those it learnt from, and those it has not seen."""

    name: str
    model: PointFlow
    train: ShapeSplit
    unseen: ShapeSplit
    points: int  # of a cloud that its encoder saw in training

    @classmethod
    def read(cls, folder: Path) -> Run:
        found = find_checkpoint(folder)
        config = from_dict(RunConfig, read_yaml(found / "config.yaml"))
        shapes = load(config.data)
        sets = (shapes.train, unseen_of(shapes))
        placed = (split.placed(config.data.normalise, shapes.normalisation) for split in sets)
        return cls(folder.name, load_model(found), *placed, config.data.points)


def scores(sets: list[np.ndarray], references: np.ndarray, emd_sets: int, cache: Path | None) -> list[GenerationScores]:
    """By Chamfer distance, of all sets, and with the EMD, of the first ones."""
    found = [evaluate(sets, references, emd="none")]
    if emd_sets:
        found.append(evaluate(sets[:emd_sets], references, tolerance=1e-3, cache=cache))
    return found


def print_row(name: str, found: list[GenerationScores]) -> None:
    values = {key: (value, each.intervals.get(key)) for each in found[::-1] for key, value in each.scores().items()}
    cells = []
    for value, interval in (values.get(column, (None, None)) for column in COLUMNS):
        within = f" ({interval[0]:.4g} – {interval[1]:.4g})" if interval else ""
        cells.append("–" if value is None else f"{value:.4g}{within}")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def reconstructions(run: Run, references: np.ndarray) -> None:
    """Of the unseen shapes, from as many points as training showed; beside another draw of the same shapes' points."""
    points, given = references.shape[1], [run.unseen.input(i) for i in range(len(references))]
    inputs = torch.from_numpy(np.stack([cloud[: run.points] for cloud in given])).float()
    with torch.no_grad():  # they are placed, hence by the data's frame
        codes = run.model.encode(run.model.standardise(inputs)).mean
    found = {"reconstruction": reconstruction(run.model.decode(codes, points, 0), references)}
    if given[0] is not run.unseen.reference(0):
        found["another draw"] = reconstruction([cloud[:points] for cloud in given], references)
    print("; ".join(f"{name}: CD {each.cd:.3e}, EMD {each.emd:.4f}" for name, each in found.items()), flush=True)


def classes(run: Run, pictures: Path | None, each: int = 20, points: int = 1024) -> None:
    """How many samples are closest to a training shape of the class that was asked for, beside real unseen shapes."""
    families = np.array(run.train.categories)
    training = torch.from_numpy(run.train.reference_set(points)).float()

    def nearest(clouds) -> np.ndarray:
        return families[chamfer_matrix(torch.as_tensor(clouds).float(), training).argmin(1).numpy()]

    asked = [name for name in run.model.config.condition.classes for _ in range(each)]
    print(f"\n| | {' | '.join(dict.fromkeys(asked))} | all |")
    print(f"|{'---|' * (len(set(asked)) + 2)}")
    print_hits("unseen shapes", run.unseen.categories, nearest(run.unseen.reference_set(points)), asked)
    for guidance in GUIDANCE:
        clouds = run.model.sample(len(asked), 2048, 0, condition=asked, guidance=guidance).points
        print_hits(f"guidance {guidance:g}", asked, nearest(clouds[:, :points]), asked)
        if pictures and guidance == 2:
            rows = {name: clouds[i * each : i * each + 8] for i, name in enumerate(dict.fromkeys(asked))}
            gallery(rows, pictures / f"{run.name}_classes.png")


def print_hits(name: str, asked, found: np.ndarray, order) -> None:
    asked = np.array(asked)
    shares = [f"{np.mean(found[asked == each] == each):.2f}" for each in dict.fromkeys(order)]
    print(f"| {name} | {' | '.join(shares)} | {np.mean(found == asked):.2f} |", flush=True)


def probes(run: Run) -> None:
    """A linear classifier on codes and on raw moments of the same points."""

    def features(split: ShapeSplit) -> tuple[np.ndarray, np.ndarray]:
        clouds = torch.from_numpy(np.stack([split.input(i)[: run.points] for i in range(len(split))])).float()
        with torch.no_grad():
            return run.model.encode(run.model.standardise(clouds)).mean.numpy(), raw_moments(clouds)

    print(f"\nlinear classifier, {len(Counter(run.train.categories))} classes, {run.points} points:")
    for name, train, test in zip(("codes", "raw moments"), features(run.train), features(run.unseen)):
        found = linear_probe(train, run.train.categories, test, run.unseen.categories)
        low, high = found.interval
        print(f"{name}: {found.accuracy:.3f} ({low:.3f} – {high:.3f}), majority {found.majority:.3f}", flush=True)


def measure(run: Run, args: argparse.Namespace) -> None:
    references, train = run.unseen.reference_set(args.points), run.train.reference_set(args.points)
    count = len(references)
    draws = [np.random.default_rng(seed).permutation(len(train))[:count] for seed in range(args.sets)]
    by_class = run.model.config.condition is not None and run.model.config.condition.kind == "class"
    sets = [run.model.sample(count, args.points, seed).points.numpy() for seed in range(args.sets)]
    print(f"\n{run.name}: {args.sets} sets of {count} against {count}, {args.points} points")
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    print_row("generated", scores(sets, references, 0, None))
    if by_class:
        free = [run.model.sample(count, args.points, seed, guidance=0.0).points.numpy() for seed in range(args.sets)]
        print_row("generated, without classes", scores(free, references, 0, None))
    print_row("training set", scores([train[draw] for draw in draws], references, 0, None))
    print(memorisation(np.concatenate(sets), train, references), flush=True)
    reconstructions(run, references)
    if args.pictures:
        rows = {"unseen": references[:16], "generated": sets[0][:32]}
        gallery(rows, args.pictures / f"{run.name}.png")
    if by_class:
        classes(run, args.pictures)
        probes(run)
    if args.evaluations:
        report(run.model, torch.from_numpy(references).float(), args.sets, args.evaluations, args.method)
    if args.emd_sets:
        print_row("generated", scores(sets, references, args.emd_sets, args.cache))
        print_row("training set", scores([train[draw] for draw in draws], references, args.emd_sets, args.cache))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--emd-sets", type=int, default=1)
    parser.add_argument("--evaluations", type=int, nargs="*", default=[8, 20, 100])
    parser.add_argument("--method", default="ab2", choices=COST, help="of the sampler whose evaluations are counted")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--cache", type=Path, help="finished blocks of the EMD, to go on from")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*are copies of others", UserWarning)  # draws of training shapes overlap
    warnings.filterwarnings("ignore", ".*outside the JSD grid", UserWarning)
    for folder in args.runs:
        measure(Run.read(folder), args)


if __name__ == "__main__":
    main()
