"""``pcgen oracle``: what stars can hold of the instances of labelled scenes, before anyone trains."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.cli.bars import bar
from pcgen.cli.parser import add_command, at_least, output

if TYPE_CHECKING:
    from pcgen.data.scenes import Scene

__all__ = ["add_commands"]

TARGETS = ("furthest", "cap", "quantile", "hull", "optimal")  # the same as in the model, without importing torch
ASSEMBLIES = ("nearest", "facet", "interpolated")


def add_commands(commands) -> None:
    parser = add_command(
        commands,
        "oracle",
        run,
        "the ceiling of instance segmentation by rays, from labels alone",
        """Encodes the true instances of labelled scenes as a centre and ray lengths, decodes them among all points of
        their scene and measures what comes back: mean IoU, the share of instances above .5, .75 and .9, the share of
        rays without a target, and AP. No network is involved: better than this none can be. One row for each set of
        rays, target and assembly.""",
        (
            "pcgen oracle scans/",
            "pcgen oracle house.ply --rays lat-lon-5x5 icosphere-42 fibonacci-96 --target furthest optimal",
            "pcgen oracle house.ply --per-class --json oracle.json",
        ),
    )
    parser.add_argument("scenes", nargs="+", metavar="SCENES", help="labelled scans: files, or folders of them")
    parser.add_argument(
        "--rays",
        nargs="+",
        default=["icosphere-42"],
        metavar="NAME",
        help="icosphere-42, fibonacci-96, lat-lon-5x5, cube-sphere-4, … [icosphere-42]",
    )
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=["optimal"], help="ray lengths [optimal]")
    parser.add_argument("--assembly", nargs="+", choices=ASSEMBLIES, default=["nearest"], help="decoding [nearest]")
    parser.add_argument("--centre", choices=("mass", "box"), default="mass", help="of an instance's points [mass]")
    parser.add_argument("--min-points", type=at_least(1), default=100, help="of an instance that AP counts [100]")
    parser.add_argument("--per-class", action="store_true", help="a row for each class too")
    parser.add_argument("--semantic", metavar="COLUMN", help="the column of classes, where its name is unusual")
    parser.add_argument("--instance", metavar="COLUMN", help="the column of instances, where its name is unusual")
    parser.add_argument("--json", type=output(".json"), metavar="FILE", help="all numbers as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    from pcgen.cli.report import write_json
    from pcgen.geometry.rays import rays
    from pcgen.models.oracle import OracleScores, oracle_scores

    ray_sets = [rays(name) for name in args.rays]
    if flat := [ray_set.name for ray_set in ray_sets if ray_set.dimension != 3]:
        raise ValueError(f"--rays must be directions in space for scenes, got {', '.join(flat)}")
    scenes = _labelled(args)
    names = {label: name for scene in scenes for label, name in scene.classes.items()}
    found = []
    print(OracleScores.HEADER)
    for ray_set, target, assembly in itertools.product(ray_sets, args.target, args.assembly):
        encoded = [
            _encoded(scene, ray_set, target, assembly, args.centre)
            for scene in bar(scenes, f"{ray_set.name}, {target}, {assembly}", args.quiet)
        ]
        scores = oracle_scores(encoded, ray_set, target, assembly, args.min_points)
        found.append(scores)
        print(scores.row())
        for label, of_class in scores.per_class.items() if args.per_class else ():
            print(of_class.row(), "", names.get(label, f"class {label}"))
    print(f"{len(scenes)} scenes; AP over instances of at least {args.min_points} points, background negative")
    if args.json:
        write_json(args.json, [_plain(dataclasses.asdict(scores)) for scores in found])


def _labelled(args: argparse.Namespace) -> list[Scene]:
    from pcgen.data.scenes import find_scenes, read_scene

    paths = [path for given in args.scenes for path in find_scenes(Path(given))]
    options = {"semantic": args.semantic, "instance": args.instance}
    scenes = [read_scene(path, **options, labelled=True) for path in bar(paths, "reading", args.quiet)]
    for scene in scenes:
        if not scene.instances:
            raise ValueError(f"an oracle needs instances, {scene.source} has none")
        if scene.dropped:
            print(f"{scene.source}: {scene.notes[0]}")
    return scenes


def _encoded(scene: Scene, ray_set, target: str, assembly: str, centre: str):
    import torch

    from pcgen.models.oracle import encode_and_decode

    points, instance = torch.from_numpy(scene.points), torch.from_numpy(scene.instance)
    semantic = None if scene.semantic is None else torch.from_numpy(scene.semantic)
    return encode_and_decode(ray_set, points, instance, semantic, target=target, assembly=assembly, centre=centre)


def _plain(value: Any) -> Any:
    """For JSON, NaN as null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if value != value else value
