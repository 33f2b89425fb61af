"""``pcgen encode`` and ``likelihood``: numbers about clouds, from a model."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcgen.cli.bars import bar
from pcgen.cli.conditions import add_condition, read_condition
from pcgen.cli.inputs import keep_inputs, read_input
from pcgen.cli.models import AtHand, codes, first_process, model_at_hand, own_frame, some_points, warn_of_size
from pcgen.cli.parser import add_command, add_input, add_model, output

__all__ = ["add_commands"]


class Ranked(NamedTuple):
    """How probable a shape is, in nats per point and per cubic unit of the data."""

    shape: str
    bound_per_point: float | None  # of the whole shape, its code included; None for an autoencoder
    log_p_per_point: float  # mean over its points, given its code; −∞ where no solver can follow them
    points: int


def add_commands(commands) -> None:
    _add_encode(commands)
    _add_likelihood(commands)


def _add_encode(commands) -> None:
    parser = add_command(
        commands,
        "encode",
        encode,
        "codes of shapes, as arrays",
        """Write the posterior over each shape's code: the arrays `mean` and `logvar` (S, Z) and the `name` of each
        shape; an autoencoder has no `logvar`. INPUT is a file of clouds (npz, npy, pt), one cloud or mesh, or a
        folder of such files.""",
        ("pcgen encode runs/demo my_chairs/ -o codes.npz", "pcgen encode runs/demo samples.npz --input-points 1000"),
    )
    add_model(parser)
    add_input(parser)
    parser.add_argument(
        "-o", "--output", type=output(".npz"), default="latents.npz", metavar="NPZ", help="[%(default)s]"
    )


def _add_likelihood(commands) -> None:
    parser = add_command(
        commands,
        "likelihood",
        likelihood,
        "how probable shapes are, outliers first",
        """Rank shapes by the evidence lower bound of the model, least likely first: outliers, broken files, shapes
        of another category. Densities are in nats per point and per cubic unit of the data, with the exact trace;
        one draw of each code, by --seed. Of a model that was trained with conditions, all shapes have the one given;
        without, a model by class takes them for a mixture of its classes.""",
        (
            "pcgen likelihood runs/demo my_chairs/",
            "pcgen likelihood runs/demo samples.npz --input-points 512 -o ranking.csv",
        ),
    )
    add_model(parser)
    add_input(parser)
    parser.add_argument(
        "--trace", choices=("exact", "hutchinson"), default="exact", help="hutchinson: faster and noisy [%(default)s]"
    )
    add_condition(parser, guidance=False)
    parser.add_argument(
        "-o", "--output", type=output(".csv", ".json"), metavar="FILE", help="the ranking [printed only]"
    )


def encode(args: argparse.Namespace) -> None:
    if not first_process():
        return
    from pcgen.data.files import replacing

    keep_inputs([args.input], [args.output])
    at = model_at_hand(args)
    clouds, names = read_input(args.input, args.seed, args.strict)
    warn_of_size(at, clouds, names)
    posterior = codes(at, clouds, args.seed, args.input_points)
    arrays = {name: values.cpu().numpy() for name, values in posterior._asdict().items() if values is not None}
    with replacing(args.output) as stream:
        np.savez(stream, **arrays, name=np.array(names, dtype=str))
    print(f"codes of {len(names)} shapes, {posterior.mean.shape[1]} values each: {args.output}")


def likelihood(args: argparse.Namespace) -> None:
    if not first_process():
        return
    keep_inputs([args.input], [args.output])
    at = model_at_hand(args)
    clouds, names = read_input(args.input, args.seed, args.strict)
    condition = read_condition(args, at)
    warn_of_size(at, clouds, names)
    rows = [_rank(at, cloud, name, args, condition) for cloud, name in zip(bar(clouds, "solving"), names)]
    if all(row.log_p_per_point == -math.inf for row in rows):
        raise ValueError(f"none of {len(rows)} shapes is anywhere near what the model learnt from")
    rows.sort(key=lambda row: row.log_p_per_point if row.bound_per_point is None else row.bound_per_point)
    if args.output:
        _write_rows(args.output, rows)
    print("bound      log p      (nats per point; least likely first)")
    for row in rows:
        bound = "-" if row.bound_per_point is None else f"{row.bound_per_point:.4f}"
        print(f"{bound:<10} {row.log_p_per_point:<10.4f} {row.shape}")


def _rank(at: AtHand, cloud: np.ndarray, name: str, args: argparse.Namespace, condition: Any) -> Ranked:
    some = some_points(cloud, args.input_points or at.points, args.seed)
    try:
        found = at.model.log_likelihood(some[None], args.seed, args.trace, condition, own_frame(at, cloud))
    except ArithmeticError as error:  # so far out that no step of the solver is short enough
        warnings.warn(f"{name} is beyond what the model can follow, and ranked first: {error}", stacklevel=2)
        bound = -math.inf if at.model.config.encoder.variational else None
        return Ranked(name, bound, -math.inf, len(some))
    bound = None if found.bound is None else float(found.bound[0]) / len(some)
    return Ranked(name, bound, float(found.points.mean()), len(some))


def _write_rows(path: Path, rows: list[Ranked]) -> None:
    from pcgen.data.files import replacing

    text = io.StringIO(newline="")
    if path.suffix.lower() == ".json":
        finite = [{k: None if v == -math.inf else v for k, v in row._asdict().items()} for row in rows]
        json.dump(finite, text, indent=1)  # which has no infinity
    else:
        table = csv.writer(text)
        table.writerows([Ranked._fields, *rows])
    with replacing(path) as stream:
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
