"""``pcgen evaluate``: generated clouds against references."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcgen.cli.models import OTHER_SIZE
from pcgen.cli.parser import Parser, add_command, at_least, output, writable
from pcgen.cli.sets import Given, named, read_set

if TYPE_CHECKING:
    from pcgen.metrics import GenerationScores, Memorisation

__all__ = ["add_commands"]

PATIENCE = 10.0  # seconds in which the first process tells a mistake that all make; then torchrun ends the others
FILLED = 0.5  # of its box along some axis: hundreds of points all over a cloud fill more
PROTOCOLS = ("exact", "pointflow", "pvd", "lion", "lion-box", "dpm", "shapegf")


def add_commands(commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "score a set of clouds against references",
        """MMD, COV and 1-NNA by Chamfer and earth mover's distance, and JSD, of one set of clouds against another, as
        fractions in [0, 1], with intervals. For 1-NNA 0.5 is ideal, if both sets have the same number of clouds. Clouds
        come as npy, npz, pt (one tensor), h5, or a folder of ply or npy files; of a PC15k folder (category/val/*.npy)
        the protocol's split and points are taken, of anything else all clouds as they are; what was read is said.
        Protocols: exact is our
        recommendation, the others repeat published programs. A set with an unusable file is refused: scores of a part
        are not those of the whole. Under torchrun or accelerate launch the processes share the work.""",
        (
            "pcgen evaluate runs/demo/samples.npz bodies.PC15k/body --points 512",
            "pcgen evaluate samples.npz val.npz --protocol pointflow --training train.npz --json scores.json",
            "pcgen evaluate new.pt ShapeNetCore.v2.PC15k/02691156 --protocol pvd --category airplane --report a.html",
        ),
    )
    parser.add_argument("samples", metavar="SAMPLES", help="generated clouds: a file or a folder")
    parser.add_argument("references", metavar="REFERENCES", help="clouds that training has not seen")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="exact", help=f"{', '.join(PROTOCOLS)} [%(default)s]")
    _add_choices(parser)
    parser.add_argument("--training", metavar="FILE", help="training clouds, for the yardstick row and the copies")
    parser.add_argument(
        "--interval", type=_level, default=0.9, metavar="LEVEL", help="of all scores; 0: none [%(default)s]"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of intervals and training clouds [%(default)s]")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU if there is one [auto]")
    parser.add_argument(
        "--cache", metavar="DIR", help="finished blocks, to go on from; none: keep none [beside --json or --report]"
    )
    parser.add_argument("--json", type=output(".json"), metavar="FILE", help="everything, with protocol and versions")
    parser.add_argument("--report", type=output(".html"), metavar="FILE", help="scores and pictures on one page")
    parser.add_argument("--category", default="", metavar="NAME", help="of ShapeNet, for the published numbers")


def _add_choices(parser: Parser) -> None:
    """What may differ from the protocol; the result then says so."""
    emds, frames, boxes = ("exact", "pointflow", "pvd", "none"), ("unit", "as-is"), ("none", "box", "half-box")
    own = "[the protocol's]"
    parser.add_argument("--emd", choices=emds, metavar="EMD", help=f"{', '.join(emds)} (leave it out) {own}")
    parser.add_argument(
        "--tolerance", type=at_least(0, float), metavar="GAP", help="proven relative gap of the exact EMD [0]"
    )
    parser.add_argument("--frame", choices=frames, help=f"unit: one scale that fits the references; as-is {own}")
    parser.add_argument("--normalise", choices=boxes, help=f"each cloud of both sets by its own box {own}")
    parser.add_argument(
        "--points",
        type=at_least(1),
        metavar="N",
        help="the first N of each cloud, scans being shuffled by --seed [all]",
    )


def run(args: argparse.Namespace) -> None:
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        warnings.simplefilter("ignore")  # the first process says it
    try:
        _run(args, first)
    except (ValueError, TypeError, OSError):
        if not first:
            time.sleep(PATIENCE)
        raise


def _run(args: argparse.Namespace, first: bool) -> None:
    from pcgen.data.splits import nearest
    from pcgen.metrics import PROTOCOLS as TABLE
    from pcgen.metrics import evaluate, memorisation
    from pcgen.metrics.published import PUBLISHED

    published = {row.category for row in PUBLISHED}
    if args.category and args.category not in published:
        raise ValueError(f"no published numbers of category {args.category!r}{nearest(args.category, published)}")
    cache = _cache_folder(args)
    given = {"samples": read_set("samples", args.samples, args)}
    given["references"] = read_set("references", args.references, args, TABLE[args.protocol].split)
    if args.training:
        given["training"] = read_set("training", args.training, args, "train")
    samples, references = given["samples"].clouds, given["references"].clouds
    training = given["training"].clouds if args.training else None
    for role in ("samples", "references"):
        _warn_of_order(role, given[role].clouds, args.points or TABLE[args.protocol].points)
    how = TABLE[args.protocol]
    if (args.normalise or how.normalise_samples, args.normalise or how.normalise_references) == ("none", "none"):
        _warn_of_sizes(samples, references)
    with _stages(quiet=not first, opening=[f"{role}: {each.what}" for role, each in given.items()]) as tell:
        scores = evaluate(
            samples,
            _on_device(references, args),
            args.protocol,
            args.emd,
            args.frame,
            args.points,
            training,
            names=named(given["samples"], given["references"]),
            progress=tell,
            seed=args.seed,
            normalise=args.normalise,
            tolerance=args.tolerance,
            interval=args.interval,
            cache=cache,
        )
        alike = {"points": scores.points, "normalise": scores.choices.normalise_samples, "cache": cache}
        copies = memorisation(samples, training, references, progress=tell, **alike) if training else None
    if first:
        departure = given["references"].departure
        deviations = scores.deviations + ((departure,) if departure else ())
        _write(args, dataclasses.replace(scores, deviations=deviations), copies, given)


def _warn_of_sizes(samples: list[np.ndarray], references: list[np.ndarray]) -> None:
    """Warn of sets that can hardly be in the same unit."""
    size, other = (float(np.median([np.ptp(x, axis=0).max() for x in clouds])) for clouds in (samples, references))
    if other > 0 and not 1 / OTHER_SIZE < size / other < OTHER_SIZE:
        warnings.warn(f"samples are {size / other:.3g} times as large as references: in another unit?", stacklevel=2)


def _warn_of_order(role: str, clouds: list[np.ndarray], points: int | None) -> None:
    """Warn of clouds that are in order, as a scan has them line by line: their first points are a part of the shape."""
    share = [
        float((np.ptp(x[:points], axis=0) / np.maximum(np.ptp(x, axis=0), 1e-30)).min())
        for x in clouds
        if points and len(x) > 2 * points and np.ptp(x, axis=0).all()
    ]
    if share and np.median(share) < FILLED:
        warnings.warn(
            f"{role}: the first {points} points, which are measured, fill {np.median(share):.0%} of a cloud's box: "
            f"shuffle each cloud, or give it with as many points",
            stacklevel=2,
        )


def _write(
    args: argparse.Namespace, scores: GenerationScores, copies: Memorisation | None, given: dict[str, Given]
) -> None:
    from pcgen.cli.report import write_json

    if args.json:
        found = scores.as_dict() | {"read": {role: each.what for role, each in given.items()}}
        if copies:
            found["memorisation"] = {
                name: value for name, value in copies._asdict().items() if not isinstance(value, np.ndarray)
            }
        write_json(args.json, found)
    print(scores.table())
    if copies:
        print(copies)
    if args.report:
        from pcgen.viz import report

        clouds = {role: each.clouds for role, each in given.items()}
        report(scores, path=args.report, memorised=copies, category=args.category, **clouds)
        print(f"report: {args.report}")


def _on_device(clouds: list[np.ndarray], args: argparse.Namespace):
    """The references where the work is to be done: `evaluate` brings the samples there."""
    import torch

    if args.device == "cpu" or not torch.cuda.is_available():
        return clouds
    return [torch.as_tensor(cloud).cuda() for cloud in clouds]


def _cache_folder(args: argparse.Namespace) -> Path | None:
    if args.cache == "none":
        return None
    beside = args.json or args.report
    if args.cache is None:
        return beside and beside.with_suffix(".blocks")
    writable(Path(args.cache) / "block")
    return Path(args.cache)


def _level(text: str) -> float:
    value = at_least(0, float)(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a level below 1, such as 0.9, got {text!r}")
    return value


@contextlib.contextmanager
def _stages(quiet: bool, opening: list[str]) -> Iterator[Callable[[str, int, int], None]]:
    """A function ``(stage, done, total)`` that moves a bar, one for each stage, which shows the time left.

    The opening lines come before the first: when everything that was given has been found good.
    """
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if not bars and not quiet:
            print("\n".join(opening), file=sys.stderr)
        if stage not in bars:
            for shown in bars.values():
                shown.close()
            bars[stage] = tqdm(desc=stage, total=total, unit=" pairs", leave=False, disable=quiet or None)
        bars[stage].update(done - bars[stage].n)

    try:
        yield tell
    finally:
        for shown in bars.values():
            shown.close()
