"""``pcgen segment``: the objects in somebody's scan, by a trained PolarMask3D."""

from __future__ import annotations

import argparse
import csv
import io
import time
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcgen.cli.bars import counting
from pcgen.cli.inputs import keep_inputs
from pcgen.cli.parser import add_command, at_least, output, writable

if TYPE_CHECKING:
    from pcgen.data.scenes import Scene
    from pcgen.models.instances import Instances
    from pcgen.models.segmenter import Domain

__all__ = ["add_commands"]

COLUMNS = (
    *("instance", "class", "name", "score", "x", "y", "z", "extent_x", "extent_y", "extent_z"),
    *("volume", "points"),
)


def add_commands(commands) -> None:
    parser = add_command(
        commands,
        "segment",
        run,
        "find the objects in a scan",
        """Finds the objects in a scan of any size and writes it again, in the form that the output's suffix says, with
        the columns instance, semantic (the class), score and a colour for each object; what else the scan had is kept,
        and columns that these replace are kept as given_NAME. The model thinks in metres: where the scan seems to be
        in another unit a warning says which, and --scale brings it to metres. All that is written is in the scan's own
        unit and coordinates; --up says which axis points up where it is not that of the training. Scans that are too
        large at once are looked at tile by tile.""",
        (
            "pcgen segment scan.ply runs/rooms -o out.ply --csv --picture --stars",
            "pcgen segment millimetres.ply runs/rooms -o out.ply --scale 0.001 --up y",
            "pcgen segment forest.laz runs/trees -o out.laz --stars crowns.ply --tile 30 --overlap 8",
            "pcgen segment house.ply runs/rooms -o out.ply --evaluate",
        ),
    )
    parser.add_argument("scan", metavar="SCAN", help=".ply .npz .npy .las .laz, or the folder of a scene")
    parser.add_argument("checkpoint", metavar="RUN", help="a run, or one of its checkpoints")
    parser.add_argument("-o", "--output", type=_scan_output, required=True, metavar="OUT", help="scan with labels")
    beside = {"nargs": "?", "const": True, "metavar": "FILE"}
    parser.add_argument("--csv", type=output(".csv"), help="a table of the objects [OUT.csv]", **beside)
    parser.add_argument("--picture", type=output(".png"), help="a picture [OUT.png]", **beside)
    parser.add_argument("--stars", type=output(".ply"), help="their stars as a coloured mesh [OUT.stars.ply]", **beside)
    parser.add_argument(
        "--score", type=at_least(0, float), default=0.0, metavar="S", help="leave out objects below [%(default)g]"
    )
    parser.add_argument("--scale", type=_scale, metavar="M", help="metres in a unit of the scan; auto: as guessed [1]")
    parser.add_argument("--up", choices=("x", "y", "z"), help="the axis that points up in the scan [as in training]")
    parser.add_argument("--tile", type=at_least(1e-9, float), metavar="M", help="edge of tiles, metres [what fits]")
    parser.add_argument("--overlap", type=at_least(0, float), metavar="M", help="margin of tiles [5 usual radii]")
    parser.add_argument("--evaluate", action="store_true", help="AP against the scan's own labels")
    parser.add_argument("--semantic", metavar="COLUMN", help="the column of classes, where its name is unusual")
    parser.add_argument("--instance", metavar="COLUMN", help="the column of instances, where its name is unusual")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU if there is one [auto]")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    import torch

    from pcgen.data.scenes import STUFF, read_scene
    from pcgen.models.segmenter import load_segmenter
    from pcgen.models.tiling import segment_scan
    from pcgen.training import find_checkpoint

    paths = _paths(args)
    model, domain = load_segmenter(find_checkpoint(args.checkpoint))
    stuff = STUFF if args.evaluate else ()  # without it labels are only carried along, as they are
    scene = read_scene(args.scan, semantic=args.semantic, instance=args.instance, stuff=stuff)
    for note in scene.notes:
        print(note)
    if args.evaluate and not scene.instances:
        raise ValueError(f"--evaluate needs instance labels, {args.scan} has none")
    metres = _metres(scene, args.scale, domain)
    if args.device == "auto" and torch.cuda.is_available():
        model.to("cuda")
    began = time.perf_counter()
    up = args.up or model.config.up
    turn = "xyz".index(model.config.up) - "xyz".index(up)
    with counting("segmenting", args.quiet) as tell:
        metric = scene if metres == 1 else replace(scene, points=scene.points * metres)
        found = segment_scan(model, _turned(metric, turn), args.tile, args.overlap, tell)
    found = _turned_back(found.take(found.scores >= args.score), turn)
    took = time.perf_counter() - began
    print(f"{len(scene):,} points, {len(found)} objects{_by_class(found, domain)}, in {took:.1f} s")
    if args.evaluate:
        print(_evaluated(scene, found, model.config.classes))
    _write(paths, scene, _in_unit_of(scene, found, metres), domain, up)


def _write(paths: dict[str, Path], scene: Scene, found: Instances, domain: Domain, up: str) -> None:
    """The files that were asked for; ``found`` is in the coordinates of the scan's file."""
    from pcgen.data.scenes import write_scene

    write_scene(paths["output"], _labelled(scene, found, domain))
    if "csv" in paths:
        _write_csv(paths["csv"], found, domain)
    if "stars" in paths:
        _write_stars(paths["stars"], found)
    if "picture" in paths:
        from pcgen.viz.instances import instance_picture, numbered_alike

        labellings = {"found": found.labels.numpy()}
        if scene.instances:
            labellings = {"given": scene.instance, "found": numbered_alike(scene.instance, labellings["found"])}
        instance_picture(paths["picture"], scene.points, labellings, up=up)
    print("wrote", ", ".join(map(str, paths.values())))


def _labelled(scene: Scene, found: Instances, domain: Domain) -> Scene:
    """The scene with what was found as columns; those that they replace are given_NAME."""
    labels = found.labels.numpy()

    def of_points(column) -> np.ndarray:
        return np.concatenate([np.zeros(1, column.numpy().dtype), column.numpy()])[labels]

    new = {"score": of_points(found.scores.float()), **dict(zip(("red", "green", "blue"), _palette(found)[labels].T))}
    kept = {f"given_{name}": scene.attributes[name] for name in new if name in scene.attributes}
    for kind, name in scene.source.names.items():
        values = getattr(scene, kind)
        if kind == "instance":
            values = np.where(values > 0, np.append(scene.instance_ids, 0)[values - 1], values)
        kept[f"given_{name}"] = values.astype(scene.source.types[kind])
    return scene.with_labels(of_points(found.classes), labels, domain.classes, **kept, **new)


def _write_csv(path: Path, found: Instances, domain: Domain) -> None:
    from pcgen.data.files import replacing

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for k, label in enumerate(found.classes.tolist()):
        lengths = [*found.centres[k].tolist(), *found.extents[k].tolist(), float(found.volumes[k])]
        numbers = [f"{value:.12g}" for value in lengths]
        score = f"{float(found.scores[k]):.6g}"
        table.writerow([k + 1, label, domain.classes.get(label, ""), score, *numbers, int(found.points[k])])
    with replacing(path) as stream:
        stream.write(text.getvalue().encode())


def _write_stars(path: Path, found: Instances) -> None:
    from pcgen.data.ply import save_ply
    from pcgen.geometry import mesh

    stars = mesh(found.rays, found.centres, found.lengths)
    owner = np.repeat(np.arange(1, len(found) + 1), len(found.rays))
    columns = dict(zip(("red", "green", "blue"), _palette(found)[owner].T))
    save_ply(path, {**dict(zip("xyz", stars.vertices.numpy().T)), **columns, "instance": owner}, stars.faces.numpy())


def _palette(found: Instances) -> np.ndarray:
    """(K + 1, 3) the colour of each object, that of the background first."""
    from pcgen.viz.instances import instance_colours

    return np.rint(255 * instance_colours(np.arange(len(found) + 1))).astype(np.uint8)


def _turned(scene: Scene, turn: int) -> Scene:
    """The scene with its axes so many places on, in turns: a rotation that brings up to where the model expects it."""
    if not turn:
        return scene
    features = {k: np.roll(v, turn, 1) if k == "normals" else v for k, v in scene.features.items()}
    return replace(scene, points=np.roll(scene.points, turn, 1), features=features)


def _turned_back(found: Instances, turn: int) -> Instances:
    """What was found in a scene of :func:`_turned`, in the scene's own axes."""
    if not turn:
        return found
    rays = replace(found.rays, name=f"{found.rays.name} turned", directions=found.rays.directions.roll(-turn, 1))
    return replace(found, centres=found.centres.roll(-turn, 1), extents=found.extents.roll(-turn, 1), rays=rays)


def _in_unit_of(scene: Scene, found: Instances, metres: float) -> Instances:
    """Lengths in metres as lengths in the unit of the scan, places as coordinates of its file."""
    import torch

    lengths = {name: getattr(found, name).double() / metres for name in ("centres", "lengths", "extents")}
    lengths["centres"] += torch.from_numpy(scene.offset)
    return replace(found, **lengths, volumes=found.volumes.double() / metres**3)


def _evaluated(scene: Scene, found: Instances, classes: int) -> str:
    import torch

    from pcgen.models.polar_targets import LabelledCloud
    from pcgen.models.tuning import average_precision

    semantic = None if scene.semantic is None else torch.from_numpy(scene.semantic)
    truth = LabelledCloud(torch.from_numpy(scene.points), torch.from_numpy(scene.instance), semantic)
    scores = average_precision([found], [truth], classes)
    if not scores.counted + scores.ignored:
        given = ", ".join(map(str, np.unique(scene.semantic[scene.instance > 0])))
        warnings.warn(f"no instance is of a class of the model, 1 … {classes}: the scan has {given}", stacklevel=2)
    return scores.table()


def _metres(scene: Scene, scale: float | str | None, domain: Domain) -> float:
    """What to multiply the scene by; a warning where nobody says and it does not look like metres."""
    from pcgen.data.scenes import scale_guess, warn_scale

    if isinstance(scale, float):
        return scale
    if scale is None:
        warn_scale(scene, **domain.ranges())
        return 1.0
    guess = scale_guess(scene.points, **domain.ranges())
    unit = guess.unit or "metres, for want of a unit that fits"
    print(f"taken as {unit}: extent {guess.extent:.4g}, spacing {guess.spacing:.3g}")
    return guess.factor


def _by_class(found: Instances, domain: Domain) -> str:
    counts = np.bincount(found.classes.numpy())
    named = [f"{counts[label]} {domain.classes.get(label, f'of class {label}')}" for label in np.flatnonzero(counts)]
    return f" ({', '.join(named)})" if domain.classes and named else ""


def _paths(args: argparse.Namespace) -> dict[str, Path]:
    """What is to be written where."""
    paths = {"output": args.output}
    for name, suffix in (("csv", ".csv"), ("picture", ".png"), ("stars", ".stars.ply")):
        path = getattr(args, name)
        if path is not None:
            paths[name] = args.output.with_suffix(suffix) if path is True else path
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise ValueError(f"each output needs a file of its own, got {', '.join(map(str, paths.values()))}")
    keep_inputs([args.scan], paths.values(), "the scan itself")
    return paths


def _scan_output(text: str) -> Path:
    """An argument's type: where a scan is to be written, by its suffix a file, without one a Pointcept folder."""
    if not Path(text).suffix:
        if Path(text).is_file() or (Path(text).is_dir() and any(Path(text).iterdir())):
            raise argparse.ArgumentTypeError(f"{text} exists and is not an empty folder (files need a suffix)")
        return writable(Path(text))
    path = output(".ply", ".npz", ".npy", ".las", ".laz")(text)
    packers = {".las": ("laspy",), ".laz": ("lazrs", "laszip")}.get(path.suffix.lower())
    if packers and not (find_spec("laspy") and any(map(find_spec, packers))):
        raise argparse.ArgumentTypeError(f"{path.suffix} files need laspy: pip install 'laspy[lazrs]'")
    return path


def _scale(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"expected auto or a positive number, got {text!r}")
    return value
