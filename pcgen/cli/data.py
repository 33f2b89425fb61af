"""``pcgen data import``, ``show`` and ``synthetic``: shapes before any model sees them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcgen.cli.bars import counting
from pcgen.cli.parser import Parser, add_command, at_least, output, writable

if TYPE_CHECKING:
    from pcgen.data import Shapes

__all__ = ["add_commands", "skipped_lines"]

SPLITS = ("train", "val", "test")
UPS = ("x", "y", "z")


def add_commands(commands) -> None:
    parser = add_command(
        commands,
        "data",
        lambda args: parser.print_help(),
        "import, look at or make shapes",
        """Bring your own files into PointFlow's layout, look at what a source holds, or write synthetic shapes.""",
        ("pcgen data import my_meshes my.PC15k", "pcgen data show my.PC15k", "pcgen data synthetic chair chairs.PC15k"),
    )
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    _add_import(actions)
    _add_show(actions)
    _add_synthetic(actions)


def _add_import(actions) -> None:
    parser = add_command(
        actions,
        "import",
        import_,
        "meshes and clouds into PointFlow's layout",
        """Write every mesh and cloud of FOLDER as OUT/<category>/{train,val,test}/<name>.npy, float32, in its own unit;
        meshes are sampled by area. Categories are the first folders, splits are folders or lists (train.txt …) or
        else a stable hash of the name. Unusable files are skipped and listed.""",
        ("pcgen data import my_meshes my.PC15k", "pcgen data import scans scans.PC15k --points 4096 --strict"),
    )
    parser.add_argument("folder", metavar="FOLDER", help="obj, ply, off, stl, glb, npy, npz, xyz …, nested or not")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--points", type=at_least(2), default=15000, metavar="N", help="of each shape [%(default)s]")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the points [%(default)s]")
    parser.add_argument("--strict", action="store_true", help="stop at the first unusable file")


def _add_show(actions) -> None:
    parser = add_command(
        actions,
        "show",
        show,
        "what a source holds",
        """Counts of shapes and points by category and split, the statistics that training would standardise by, and
        every file that is skipped, with the reason. SOURCE is what --data of pcgen train takes, or `synthetic`.""",
        ("pcgen data show my_meshes", "pcgen data show ShapeNetCore.v2.PC15k --category chair --gallery chairs.png"),
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, a file of clouds, or `synthetic`")
    parser.add_argument("--category", action="append", default=[], metavar="NAME", help="only this one (repeatable)")
    _add_normalise(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first unusable file")
    parser.add_argument("--up", choices=UPS, default="y", help="the axis that points up in the picture [%(default)s]")
    parser.add_argument("--gallery", type=output(".png"), metavar="PNG", help="draw the first shapes of each split")


def _add_normalise(parser: Parser) -> None:
    kinds = ("set", "set-axis", "shape")
    parser.add_argument("--normalise", choices=kinds, default="set", help="as data.normalise [%(default)s]")


def _add_synthetic(actions) -> None:
    parser = add_command(
        actions,
        "synthetic",
        synthetic,
        "write synthetic shapes",
        """Write synthetic shapes in PointFlow's layout, OUT/<category>/{train,val,test}/NNNN.npy: N to train, and a
        tenth as many to validate and to test. y is up, the front looks along +z, the box's diagonal is 1.""",
        ("pcgen data synthetic chair chairs.PC15k -n 1000", "pcgen train --data chairs.PC15k"),
    )
    parser.add_argument("category", metavar="CATEGORY", help="chair, table, airplane, car, lamp, cabinet, sofa or bed")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("-n", "--shapes", type=at_least(2), default=400, metavar="N", help="to train [%(default)s]")
    parser.add_argument("--points", type=at_least(2), default=15000, metavar="N", help="of each shape [%(default)s]")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the shapes [%(default)s]")


def import_(args: argparse.Namespace) -> None:
    from pcgen.data import import_folder

    writable(args.out / "category")
    with counting("importing") as tell:
        report = import_folder(args.folder, args.out, args.points, args.seed, strict=args.strict, progress=tell)
    print("\n".join([*_table(report.counts), *skipped_lines(report.skipped), f"written to {args.out}"]))


def show(args: argparse.Namespace) -> None:
    from pcgen.data import DataConfig, load

    config = DataConfig(args.source, tuple(args.category), normalise=args.normalise, strict=args.strict, up=args.up)
    with counting("reading shapes") as tell:
        shapes = load(config, tell)
    splits = {name: getattr(shapes, name) for name in SPLITS}
    counts = Counter((category, name) for name, split in splits.items() for category in split.categories)
    sizes = [len(cloud) for split in splits.values() for cloud in split.clouds]
    mean, scale = (", ".join(f"{x:.4g}" for x in v) for v in (shapes.normalisation.mean, shapes.normalisation.scale))
    lines = [
        *_table(counts),
        *(["test and val are the same shapes"] if shapes.val.names == shapes.test.names else []),
        f"points per shape: {min(sizes)} to {max(sizes)}",
        f"normalisation ({args.normalise}, of the training split): mean {mean}; scale {scale}",
        *skipped_lines(shapes.skipped, shown=len(shapes.skipped)),
    ]
    print("\n".join(lines))
    if args.gallery:
        _draw(shapes, args.gallery, args.normalise)


def _draw(shapes: Shapes, path: Path, normalise: str) -> None:
    from pcgen.viz import gallery

    splits = {name: getattr(shapes, name) for name in SPLITS}
    rows = {name: [split.reference(i)[:2048] for i in range(min(16, len(split)))] for name, split in splits.items()}
    gallery(rows, path, up=shapes.up, same_scale=normalise != "shape")
    print(f"picture: {path}")


def synthetic(args: argparse.Namespace) -> None:
    from pcgen.data import DataConfig, load
    from pcgen.data.files import filling_folder, free_folder, replacing

    free_folder(args.out)
    writable(args.out / "category")
    config = DataConfig(categories=(args.category,), shapes=args.shapes, mesh_points=args.points, seed=args.seed)
    with counting("making shapes") as tell:
        shapes = load(config, tell)
    with filling_folder(args.out):
        for split in (shapes.train, shapes.val, shapes.test):
            for name, cloud in zip(split.names, split.clouds):  # <category>/<split>/<number>
                with replacing(args.out / f"{name}.npy") as stream:
                    np.save(stream, cloud, allow_pickle=False)
    counts = {(args.category, name): len(getattr(shapes, name)) for name in SPLITS}
    print("\n".join([*_table(counts), f"written to {args.out}"]))


def _table(counts: dict[tuple[str, str], int]) -> list[str]:
    """Shapes by category and split.

    >>> print("\\n".join(_table({("chair", "train"): 8, ("chair", "val"): 1})))
    category      train   val  test
    chair             8     1     0
    """
    categories = sorted({category for category, _ in counts})
    rows = {name: [counts.get((name, split), 0) for split in SPLITS] for name in categories}
    if len(rows) > 1:
        rows["all"] = [sum(column) for column in zip(*rows.values())]
    width = max(12, *map(len, rows))
    lines = [f"{'category':<{width}} " + "".join(f"{split:>6}" for split in SPLITS)]
    return lines + [f"{name:<{width}} " + "".join(f"{n:>6}" for n in row) for name, row in rows.items()]


def skipped_lines(skipped: Iterable[tuple[Path, str]], shown: int = 10) -> list[str]:
    """The files that were skipped: how many, and the first with their reasons."""
    skipped = list(skipped)
    if not skipped:
        return []
    lines = [f"  {path}: {reason}" for path, reason in skipped[:shown]]
    more = [f"  and {len(skipped) - shown} more: pcgen data show lists them all"] if len(skipped) > shown else []
    return [f"skipped {len(skipped)} {'file' if len(skipped) == 1 else 'files'}:", *lines, *more]
