"""``pcgen evaluate``: generated clouds against references."""

from __future__ import annotations

import argparse
import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcgen.cli.inputs import read_input
from pcgen.cli.parser import Parser, add_command, at_least, output, writable

if TYPE_CHECKING:
    from pcgen.metrics import GenerationScores, Memorisation

__all__ = ["add_commands"]

PROTOCOLS = ("exact", "pointflow", "pvd", "lion", "lion-box", "dpm", "shapegf")
H5_SUFFIXES = (".h5", ".hdf5")


def add_commands(commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "score a set of clouds against references",
        """MMD, COV and 1-NNA by Chamfer and earth mover's distance, and JSD, of one set of clouds against another, as
        fractions in [0, 1], with intervals. For 1-NNA 0.5 is ideal, if both sets have the same number of clouds. Clouds
        come as npy, npz, pt (one tensor), h5, or a folder of ply or npy files; of a PC15k folder (category/val/*.npy)
        the protocol's split and points are taken, of anything else all clouds as they are. Protocols: exact is our
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
    parser.add_argument("--points", type=at_least(1), metavar="N", help="the first N of each cloud [all]")


def run(args: argparse.Namespace) -> None:
    from pcgen.metrics import evaluate, memorisation
    from pcgen.metrics.blocks import find_crew

    cache = _cache_folder(args)
    samples = _read(args.samples)
    references = _measured(args.references, args)
    training = _measured(args.training, args, "train") if args.training else None
    first = find_crew().rank == 0
    if not first:
        warnings.simplefilter("ignore")  # the first process says it
    with _stages(quiet=not first) as tell:
        scores = evaluate(
            samples,
            _on_device(references, args),
            args.protocol,
            args.emd,
            args.frame,
            args.points,
            training,
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
        _write(args, scores, copies, samples, references, training)


def _write(
    args: argparse.Namespace, scores: GenerationScores, copies: Memorisation | None, samples, references, training
) -> None:
    from pcgen.data.files import replacing

    if args.json:
        found = scores.as_dict()
        if copies:
            found["memorisation"] = {
                name: value for name, value in copies._asdict().items() if not isinstance(value, np.ndarray)
            }
        with replacing(args.json) as stream:
            stream.write((json.dumps(found, indent=1) + "\n").encode())
    print(scores.table())
    if copies:
        print(copies)
    if args.report:
        from pcgen.viz import report

        report(*(scores, samples, references, args.report), training=training, memorised=copies, category=args.category)
        print(f"report: {args.report}")


def _read(path: str) -> list[np.ndarray]:
    return _read_h5(Path(path)) if Path(path).suffix.lower() in H5_SUFFIXES else read_input(path, strict=True)[0]


def _measured(path: str, args: argparse.Namespace, split: str | None = None) -> list[np.ndarray]:
    """The clouds at ``path``; of a PC15k folder the protocol's points of its split, or of the one that is named."""
    from pcgen.metrics import PROTOCOLS as TABLE
    from pcgen.metrics import pc15k_references

    root, split = Path(path), split or TABLE[args.protocol].split
    folder = root if root.name == split else root / split
    if not folder.is_dir():
        return _read(path)
    clouds = _read(str(folder))
    whole = min(len(cloud) for cloud in clouds) >= 15000
    return list(pc15k_references(clouds, args.protocol, args.points, args.normalise).numpy()) if whole else clouds


def _read_h5(path: Path) -> list[np.ndarray]:
    """Clouds (S, N, 3) of an HDF5 file: its data set ``points`` or ``samples``, or the only one of that shape."""
    from pcgen.data import UnreadableFile
    from pcgen.data.files import reading

    try:
        import h5py
    except ImportError:
        raise UnreadableFile(path, "reading HDF5 needs h5py (pip install h5py)") from None
    with reading(path), h5py.File(path) as file:
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        clouds = [name for name, item in found.items() if item.ndim == 3 and item.shape[2] == 3]
        chosen = [name for name in ("points", "samples") if name in clouds] or clouds
        if len(chosen) != 1:
            raise UnreadableFile(
                path, f"expected one data set (S, N, 3), or 'points', got {', '.join(found) or 'none'}"
            )
        return list(np.asarray(found[chosen[0]][()], dtype=np.float32))


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
def _stages(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A function ``(stage, done, total)`` that moves a bar, one for each stage, which shows the time left."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def tell(stage: str, done: int, total: int) -> None:
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
