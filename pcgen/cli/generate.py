"""``pcgen sample``, ``reconstruct`` and ``interpolate``: clouds out of a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcgen.cli.bars import counting
from pcgen.cli.conditions import add_condition, read_condition
from pcgen.cli.inputs import keep_inputs, read_input, read_one
from pcgen.cli.models import (
    AtHand,
    codes,
    decode_together,
    first_process,
    model_at_hand,
    rebuild,
    some_points,
    warn_of_size,
)
from pcgen.cli.parser import (
    CLOUD_SUFFIXES,
    Parser,
    add_command,
    add_input,
    add_input_points,
    add_model,
    at_least,
    output,
)

if TYPE_CHECKING:
    from pcgen.flows import SolverConfig

__all__ = ["add_commands"]

SHOWN = 32  # shapes in a gallery


def add_commands(commands) -> None:
    _add_sample(commands)
    _add_reconstruct(commands)
    _add_interpolate(commands)


def _add_sample(commands) -> None:
    parser = add_command(
        commands,
        "sample",
        sample,
        "draw new shapes",
        """Draw new shapes from a trained model, with any number of points each, in the unit of its training data.
        Shape i depends on the seed and on i alone: asking for more shapes or more points adds to what was there.
        A gallery of the first 32 is drawn beside the output. A model that was trained with conditions takes a class, a
        picture or a part of a shape; told no class, it draws them as often as the training set has them, and an .npz
        says which in "category". Under torchrun the processes share the work and write the same file as one.""",
        (
            "pcgen sample runs/demo -n 32 -o chairs.npz",
            "pcgen sample runs/demo -n 1 --points 1000000 -o dense.ply",
            "pcgen sample runs/demo --temperature 0.8 --solver ab2 --steps 8",
            "pcgen sample runs/bricks --class Slope --guidance 2",
            "pcgen sample chair.pt --mean mean.npy --scale std.npy      # the original's weights",
        ),
    )
    add_model(parser)
    parser.add_argument("-n", "--shapes", type=at_least(1), default=16, metavar="N", help="how many [%(default)s]")
    parser.add_argument("--points", type=at_least(1), default=2048, metavar="N", help="of each shape [%(default)s]")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of shapes and points [%(default)s]")
    noise = parser.add_argument_group("noise", "standard deviations of the two priors, and bounds in them")
    for name, of in (("", "shape"), ("point-", "point")):
        noise.add_argument(
            f"--{name}temperature",
            type=at_least(0, float),
            default=1.0,
            metavar="T",
            help=f"factor of the {of} noise; below 1: more typical, less varied [%(default)s]",
        )
        noise.add_argument(
            f"--{name}truncation",
            type=at_least(1e-6, float),
            metavar="K",
            help=f"bound on the {of} noise, in standard deviations [none]",
        )
    add_condition(parser)
    solver = parser.add_argument_group("solver", "of points; what is not given is as the model's config.yaml has it")
    solver.add_argument("--solver", metavar="NAME", help="dopri5, dopri8, bosh3, ab2, midpoint, rk4 …")
    solver.add_argument("--steps", type=at_least(1), metavar="K", help="steps of a fixed-step solver")
    solver.add_argument(
        "--atol", type=at_least(1e-12, float), metavar="E", help="absolute tolerance of an adaptive one"
    )
    solver.add_argument(
        "--rtol", type=at_least(1e-12, float), metavar="E", help="relative tolerance of an adaptive one"
    )
    solver.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of matrix products; bfloat16 errs by about 0.0004",
    )
    _add_output(parser, "samples.npz")


def _add_reconstruct(commands) -> None:
    parser = add_command(
        commands,
        "reconstruct",
        reconstruct,
        "encode shapes and decode them again",
        """Bring shapes through the model's code and back, at any number of points, and say how far they are from
        where they began: the Chamfer distance (squared, both directions added) in squared units of the data. INPUT
        is a file of clouds (npz, npy, pt), one cloud or mesh, or a folder of such files.""",
        (
            "pcgen reconstruct runs/demo my_chair.obj",
            "pcgen reconstruct runs/bodies bodies.PC15k/body/test --points 10000 -o back.npz",
        ),
    )
    add_model(parser)
    parser.add_argument("--points", type=at_least(1), default=2048, metavar="N", help="of each result [%(default)s]")
    add_input(parser)
    _add_output(parser, "reconstructions.npz")


def _add_interpolate(commands) -> None:
    parser = add_command(
        commands,
        "interpolate",
        interpolate,
        "go from one shape to another",
        """Shapes on the straight line between the codes of two shapes, both ends included, all with the same point
        noise, so that points move without jumping. A and B are clouds or meshes; one of several clouds in a file
        is named by its number, counted from 0, as in samples.npz:5.""",
        (
            "pcgen interpolate runs/demo samples.npz:0 samples.npz:5",
            "pcgen interpolate runs/demo a.obj b.ply --steps 16 --space prior -o walk.npz",
        ),
    )
    add_model(parser)
    parser.add_argument("a", metavar="A", help="the first shape: a file, or FILE:NUMBER")
    parser.add_argument("b", metavar="B", help="the last shape")
    parser.add_argument("--steps", type=at_least(2), default=8, metavar="K", help="shapes, ends included [%(default)s]")
    parser.add_argument(
        "--space", choices=("latent", "prior"), default="latent", help="where the line is straight [%(default)s]"
    )
    parser.add_argument("--points", type=at_least(1), default=2048, metavar="N", help="of each shape [%(default)s]")
    add_input_points(parser)
    add_condition(parser, guidance=False)
    _add_output(parser, "interpolation.npz")


def _add_output(parser: Parser, default: str) -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=output(*CLOUD_SUFFIXES),
        default=default,  # text: argparse checks it like a word that was given
        metavar="FILE",
        help=".npz, .npy or .ply (several shapes: a folder of .ply) [%(default)s]",
    )
    parser.add_argument("--gallery", type=output(".png"), metavar="PNG", help="the picture [beside the output]")


def sample(args: argparse.Namespace) -> None:
    from pcgen.flows import SolverConfig

    # One that is named has its own defaults, and may be wrong before a model is read.
    named = _solver(args, SolverConfig()) if args.solver else None
    _check_free(args.output, args.shapes)
    at = model_at_hand(args)
    solver = named or _solver(args, at.model.config.sampler or at.model.point_flow.solver)
    condition = read_condition(args, at)
    if condition is None and at.model.condition is not None:
        condition = at.model.condition.usual(args.shapes, args.seed)
    codes = at.model.sample_codes(
        args.shapes,
        args.seed,
        temperature=args.temperature,
        truncation=args.truncation,
        condition=condition,
        guidance=args.guidance,
    )
    noise = {"temperature": args.point_temperature, "truncation": args.point_truncation}
    clouds = decode_together(at, codes, args.points, args.seed, **noise, solver=solver)
    if first_process():
        classes = [condition] * len(clouds) if isinstance(condition, str) else condition
        told = isinstance(classes, list) and args.guidance != 0
        _write(args, at, clouds, {"generated": clouds}, categories=classes if told else None)


def reconstruct(args: argparse.Namespace) -> None:
    from pcgen.metrics import reconstruction

    if not first_process():
        return  # one process's work
    keep_inputs([args.input], _outputs(args))
    at = model_at_hand(args)
    clouds, names = read_input(args.input, args.seed, args.strict)
    _check_free(args.output, len(clouds))
    warn_of_size(at, clouds, names)
    back = rebuild(at, clouds, args.points, args.seed, args.input_points)
    distances = [reconstruction(x[None], [cloud], emd="none").cd for x, cloud in zip(back, clouds)]
    print("CD         shape")
    for distance, name in zip(distances, names):
        print(f"{distance:<10.4g} {name}")
    print(f"{np.mean(distances):<10.4g} mean of {len(names)}")
    rows = {"input": [some_points(cloud, args.points, args.seed) for cloud in clouds], "reconstructed": back}
    _write(args, at, back, rows, names)


def interpolate(args: argparse.Namespace) -> None:
    if not first_process():
        return  # one process's work
    _check_free(args.output, args.steps)
    keep_inputs([args.a, args.b], _outputs(args))
    at = model_at_hand(args)
    condition = read_condition(args, at)
    if condition is not None and args.space == "latent":
        raise ValueError("a condition is of the prior over shapes: it goes with --space prior")
    shapes = [read_one(name, args.seed) for name in (args.a, args.b)]
    warn_of_size(at, shapes, (args.a, args.b))
    ends = codes(at, shapes, args.seed, args.input_points).mean
    with counting("decoding") as tell:
        how = {"space": args.space, "condition": condition}
        line = at.model.interpolate(*ends, args.steps, args.points, args.seed, **how, progress=tell)
    clouds = line.cpu().numpy()
    _write(args, at, clouds, {f"{Path(args.a).name} to {Path(args.b).name}": clouds})


def _solver(args: argparse.Namespace, own: SolverConfig) -> SolverConfig:
    """``own``, but for what the options say; ``ValueError`` if they say nothing to its method."""
    from pcgen.config import from_dict, to_dict
    from pcgen.flows import FIXED_STEP, SolverConfig

    names = {"method": "solver", "steps": "steps", "atol": "atol", "rtol": "rtol", "precision": "precision"}
    given = {name: getattr(args, option) for name, option in names.items() if getattr(args, option) is not None}
    solver = from_dict(SolverConfig, to_dict(own) | given)
    fixed = solver.method in FIXED_STEP
    if fixed and given.keys() & {"atol", "rtol"}:
        raise ValueError(f"--atol and --rtol are for adaptive solvers, {solver.method} takes --steps")
    if not fixed and "steps" in given:
        raise ValueError(f"--steps is for fixed-step solvers ({', '.join(FIXED_STEP)}), got {solver.method}")
    return solver


def _check_free(path: Path, count: int) -> None:
    """Refuse a place that cannot take the clouds before they are made."""
    from pcgen.data.formats import ply_folder

    if path.suffix.lower() == ".ply" and count > 1:
        ply_folder(path)


def _outputs(args: argparse.Namespace) -> tuple[Path, Path]:
    """The clouds' file and the picture's."""
    return args.output, args.gallery or args.output.with_suffix(".png")


def _write(args: argparse.Namespace, at: AtHand, clouds: np.ndarray, rows: dict, names=None, categories=None) -> None:
    """The clouds, and a picture of the first of them."""
    from pcgen.data import write_clouds
    from pcgen.viz import gallery

    write_clouds(args.output, clouds, names, categories)
    _, picture = _outputs(args)
    shown = {label: row[:SHOWN] for label, row in rows.items()}
    gallery(shown, picture, up=at.up, same_scale=at.normalise != "shape")
    there = args.output if args.output.suffix.lower() != ".ply" or len(clouds) == 1 else args.output.with_suffix("")
    print(f"{len(clouds)} shapes of {clouds.shape[1]} points: {there}; picture: {picture}")
