"""What a run shows for itself: a gallery at every validation; samples, pictures and scores at the end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pcgen.cli.bars import counting
from pcgen.cli.conditions import conditions_of, example_option, of_classes
from pcgen.cli.info import hardware, versions
from pcgen.cli.models import AtHand, codes, rebuild
from pcgen.config import to_dict

if TYPE_CHECKING:
    from pcgen.data import Shapes, ShapeSplit
    from pcgen.data.scene_sets import SceneSets
    from pcgen.flows import SolverConfig
    from pcgen.metrics import GenerationScores
    from pcgen.models import PointFlow
    from pcgen.training import AnyRunConfig, RunConfig

__all__ = ["References", "circumstances", "finish", "gallery_of_epoch", "reference_shapes", "write_json"]

COLUMNS = 8  # shapes in a row of a picture


class References(NamedTuple):
    """The shapes that a model has not seen and is measured against."""

    split: ShapeSplit
    splits: str  # "val", or "val and test"


def reference_shapes(shapes: Shapes, config: RunConfig) -> References:
    """The first of the validation split and, where it has too few, of the test split.

    Of a model by class only shapes of its classes, since no other can be asked for.

    Raises:
        ValueError: a shape has fewer points than the evaluation asks for, or no shape is of the classes.
    """
    from pcgen.data import ShapeSplit
    from pcgen.training import with_classes

    evaluation, condition = config.evaluation, with_classes(config, shapes).model.condition
    val, test, count = of_classes(shapes.val, condition), of_classes(shapes.test, condition), evaluation.shapes
    splits = "val"
    if len(val) < count and val.names != test.names:  # a source without one of them has the same in both
        val = ShapeSplit(val.names + test.names, val.categories + test.categories, val.clouds + test.clouds)
        splits = "val and test"
    if not len(val):
        there = sorted({*shapes.val.categories, *shapes.test.categories})
        raise ValueError(
            f"no shape of val and test is of the classes that the model learns ({', '.join(condition.classes)}): "
            f"they are {', '.join(there)}"
        )
    chosen = val.first(count)
    sizes = [(len(s.reference(i)), name) for s in (chosen, shapes.train) for i, name in enumerate(s.names)]
    if min(sizes)[0] < evaluation.points:
        (least, name), few = min(sizes), sum(size < evaluation.points for size, _ in sizes)
        raise ValueError(
            f"shape {name!r} has {least} points to measure against, evaluation.points={evaluation.points} asks for "
            f"more (of {few} of {len(sizes)} shapes): set evaluation.points={least} or less"
        )
    return References(chosen, splits)


def _at_hand(model: PointFlow, config: RunConfig, quiet: bool) -> AtHand:
    return AtHand.of(model, config.data.points, config.data.normalise, config.data.up, quiet)


def gallery_of_epoch(config: RunConfig, shapes: Shapes, folder: Path) -> Callable:
    """A callback that draws generated shapes beside reconstructions and their originals.

    Those of a conditional model have the conditions of the originals.
    """
    # Models without conditions need no references: all of the validation split may be shown.
    split = shapes.val if config.model.condition is None else reference_shapes(shapes, config).split

    def draw(model: PointFlow, state) -> None:
        at = _at_hand(model, config, quiet=True)  # the bar of the training stands already
        val = split.first(COLUMNS).placed(at.normalise, at.frame())
        points, seed = config.evaluation.gallery_points, config.training.seed
        rows = {
            "real": [val.reference(i)[:points] for i in range(len(val))],
            "reconstructed": rebuild(at, [val.input(i) for i in range(len(val))], points, solver=_for_pictures()),
        }
        if at.generates:
            told = conditions_of(at, val, COLUMNS, seed)
            drawn = model.sample(COLUMNS, points, seed, condition=told, solver=_for_pictures())
            rows["generated"] = drawn.points.cpu().numpy()
        _gallery(rows, folder / "galleries" / f"epoch_{state.epoch:05d}.png", at, f"epoch {state.epoch}")

    return draw


def finish(model: PointFlow, config: RunConfig, shapes: Shapes, folder: Path, quiet: bool = False) -> str:
    """Samples, pictures and ``metrics.json`` of a trained model; returns the closing words."""
    at = _at_hand(model, config, quiet)
    split, splits = reference_shapes(shapes, config)
    references = References(split.placed(at.normalise, at.frame()), splits)
    training = of_classes(shapes.train, config.model.condition).placed(at.normalise, at.frame())
    measured = references.split.reference_set(config.evaluation.points)
    generated = _generate(at, config, references.split, folder) if at.generates else None
    inputs = [references.split.input(i) for i in range(len(measured))]
    rebuilt = rebuild(at, inputs, config.evaluation.points, config.training.seed)
    _pictures(at, config, references, training, generated, folder)
    scores = condition = None
    if generated is not None and len(measured) > 1:
        scores = _generation(generated, measured, training, config, splits, quiet)
        condition = _condition(at, measured, config, splits)
    reconstruction = _reconstruction(rebuilt, measured, references.split)
    metrics = {
        "generation": scores.as_dict() if scores else None,
        "reconstruction": reconstruction,
        "references": {
            "splits": splits,
            "shapes": len(measured),
            "placed": "each at the training set's average place and size" if at.normalise == "shape" else "as they are",
        },
        **({"condition": condition} if condition else {}),
        **circumstances(config, shapes, folder),
    }
    write_json(folder / "metrics.json", metrics)
    return _closing(scores, metrics, config, folder)


def _generate(at: AtHand, config: RunConfig, split: ShapeSplit, folder: Path) -> np.ndarray:
    """New shapes (S, N, 3), enough points for scores and pictures alike, kept in ``samples.npz``.

    A conditional model gives shape i the condition of shape i of the split.
    """
    from pcgen.data import write_clouds

    wanted, seed = config.evaluation, config.training.seed
    points = max(wanted.points, wanted.gallery_points)
    told = conditions_of(at, split, wanted.shapes, seed)
    with counting("sampling", at.quiet) as tell:
        samples = at.model.sample(wanted.shapes, points, seed, condition=told, progress=tell)
    clouds = samples.points.cpu().numpy()
    write_clouds(folder / "samples.npz", clouds)
    return clouds


def _condition(at: AtHand, measured: np.ndarray, config: RunConfig, splits: str) -> dict[str, Any] | None:
    """Where the conditions of the generated shapes came from, and the scores of as many that are told none."""
    from pcgen.metrics import evaluate

    condition, wanted, seed = config.model.condition, config.evaluation, config.training.seed
    if condition is None:
        return None
    without = None
    if condition.dropout or condition.shares:
        with counting("sampling, told nothing", at.quiet) as tell:
            free = at.model.sample(len(measured), wanted.points, seed, progress=tell).points.cpu().numpy()
        # By CD alone: the EMD is most of a measurement's work.
        names = ("generated, told nothing", splits)
        without = evaluate(free, measured, wanted.protocol, emd="none", names=names, seed=seed).as_dict()
    return {"kind": condition.kind, "from": f"{splits}: reference i for generated shape i", "without": without}


def _generation(
    generated, measured, train: ShapeSplit, config: RunConfig, splits: str, quiet: bool
) -> GenerationScores:
    """As many generated shapes as there are references, and the training set as the yardstick."""
    from pcgen.metrics import evaluate

    points, protocol = config.evaluation.points, config.evaluation.protocol
    count = len(measured)  # never more than there are samples
    training = train.reference_set(points) if len(train) >= count else None
    with counting("measuring", quiet) as tell:
        return evaluate(
            generated[:count, :points],
            measured,
            protocol,
            training=training,
            names=("generated", splits),
            progress=lambda stage, done, total: tell(done, total),
            seed=config.training.seed,
        )


def _reconstruction(rebuilt: np.ndarray, measured: np.ndarray, split: ShapeSplit) -> dict[str, Any]:
    """Scores of the reconstructions and, where shapes have points to spare, of another draw of the same shapes."""
    from pcgen.metrics import reconstruction

    points = measured.shape[1]
    scores = {**reconstruction(rebuilt, measured)._asdict(), "points": points}
    divided = all(split.input(i) is not split.reference(i) for i in range(len(split)))
    if divided:
        oracle = np.stack([split.input(i)[:points] for i in range(len(split))])
        scores["oracle"] = reconstruction(oracle, measured)._asdict()
    return scores


def _pictures(
    at: AtHand, config: RunConfig, references: References, train: ShapeSplit, generated, folder: Path
) -> None:
    from pcgen.training import read_history
    from pcgen.viz import curves

    points, split = config.evaluation.gallery_points, references.split
    shown = range(min(COLUMNS, len(split)))
    inputs = [split.input(i) for i in shown]
    rows = {
        f"real ({references.splits})": [split.reference(i)[:points] for i in shown],
        "reconstructed": rebuild(at, inputs, points, config.training.seed),
    }
    if generated is not None:
        rows["generated"] = generated[: 2 * COLUMNS, :points]
    _gallery(rows, folder / "gallery.png", at)
    if len(inputs) % 2:  # pairs; one from the training set, if need be
        inputs.append(train.input(0))
    ends = codes(at, inputs[:6]).mean
    lines = {}
    for i in range(0, len(ends), 2):
        line = at.model.interpolate(*ends[i : i + 2], COLUMNS, points, config.training.seed, solver=_for_pictures())
        lines[f"{i} to {i + 1}"] = line.cpu().numpy()
    _gallery(lines, folder / "interpolation.png", at)
    curves(read_history(folder), folder / "curves.png")


def _for_pictures() -> SolverConfig:
    """A solver whose cost is known and whose error no eye sees."""
    from pcgen.flows import SolverConfig

    return SolverConfig("ab2", steps=16)


def _gallery(rows: dict, path: Path, at: AtHand, title: str | None = None) -> None:
    from pcgen.viz import gallery

    gallery(rows, path, columns=COLUMNS, up=at.up, title=title)


def circumstances(config: AnyRunConfig, data: Shapes | SceneSets, folder: Path) -> dict[str, Any]:
    """How the scores were got."""
    from pcgen.training import read_history

    last = read_history(folder)[-1]
    return {
        "training": {"minutes": round(last["seconds"] / 60, 2), "steps": last["step"], "epochs": last["epoch"]},
        "data": {"source": data.source, "skipped": len(data.skipped)},
        "seed": config.training.seed,
        "hardware": hardware(config.training.device),
        "versions": versions(),
        "config": to_dict(config),
    }


def _closing(scores: GenerationScores | None, metrics: dict, config: RunConfig, folder: Path) -> str:
    """The scores, where to look, and what to try next."""
    found, oracle = metrics["reconstruction"], metrics["reconstruction"].get("oracle")
    beside = f" (another draw of the same points: CD {oracle['cd']:.4g}, EMD {oracle['emd']:.4g})" if oracle else ""
    run = shlex.quote(str(folder))
    sample = f"pcgen sample {run} -n 32 --points 10000{example_option(config.model.condition)} -o samples.npz"
    lines = [
        *([scores.table()] if scores else []),
        *([_of_conditions(metrics["condition"])] if "condition" in metrics else []),
        f"reconstruction: CD {found['cd']:.4g}, EMD {found['emd']:.4g}{beside}",
        f"trained in {metrics['training']['minutes']:.1f} min; pictures, samples and metrics.json are in {folder}",
        f"next: {sample if scores else f'pcgen info {run}'}",
    ]
    return "\n".join(lines)


def _of_conditions(condition: dict[str, Any]) -> str:
    """What the generated shapes were told, and how they score that were told nothing."""
    line = f"generated shape i is told the {condition['kind']} of reference i; told nothing: "
    if condition["without"] is None:
        return line + "none, the model always had one (condition.dropout is 0)"
    scores = condition["without"]["scores"]
    names = {"MMD-CD": "mmd_cd", "COV-CD": "cov_cd", "1-NNA-CD": "one_nna_cd", "JSD": "jsd"}
    return line + ", ".join(f"{title} {scores[name]:.4g}" for title, name in names.items())


def write_json(path: Path, values: Any) -> None:
    """A file that is whole or not there."""
    from pcgen.data.files import replacing

    with replacing(path) as stream:
        stream.write((json.dumps(values, indent=1) + "\n").encode())
