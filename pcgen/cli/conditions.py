"""What a shape is to be, from the command line: a class, a picture or a part, as a conditional model takes it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pcgen.cli.inputs import read_one
from pcgen.cli.models import AtHand, own_frame
from pcgen.cli.parser import Parser

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_condition", "read_condition"]

# The option that each kind of condition takes.
OPTIONS = {"class": "--class", "depth": "--image", "silhouette": "--image", "cloud": "--part"}


def add_condition(parser: Parser) -> None:
    """--class, --image, --part and --guidance."""
    told = parser.add_argument_group("condition", "of a model that was trained with them, one of:")
    told.add_argument("--class", dest="class_name", metavar="NAME", help="of the training data, as Slope")
    told.add_argument("--image", metavar="PNG", help="a silhouette or depth picture before black, whichever it learnt")
    told.add_argument("--part", metavar="FILE", help="points of a part of the shape, at their place: a cloud or mesh")
    told.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        metavar="W",
        help="how far towards the condition; 0: not at all, above 1: further than trained [%(default)s]",
    )


def read_condition(args: argparse.Namespace, at: AtHand) -> Any:
    """What the arguments give; None if they give nothing.

    Raises:
        ValueError: several conditions, or one of another kind than the model's.
        UnreadableFile, FileNotFoundError: no picture or part can be read from the file.
    """
    import torch

    given = {"--class": args.class_name, "--image": args.image, "--part": args.part}
    given = {option: value for option, value in given.items() if value is not None}
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(f"one condition at a time, got {' and '.join(given)}")
    (option, value), config = *given.items(), at.model.config.condition
    if config is None or OPTIONS[config.kind] != option:
        knows = "was trained without conditions" if config is None else f"takes {OPTIONS[config.kind]}"
        raise ValueError(f"{args.checkpoint} {knows}, got {option} {value}")
    if option == "--image":
        return _picture(value, config.resolution)
    if option == "--part":
        part = read_one(value, args.seed)
        return at.model.to_data(torch.as_tensor(own_frame(at, part).apply(part)).to(at.model.data_mean))
    return value


def _picture(path: str, resolution: int) -> Tensor:
    """A PNG in the frame of the pictures that a model learnt from; what is transparent is black."""
    import matplotlib.image
    import torch

    from pcgen.data.files import UnreadableFile, reading
    from pcgen.geometry.views import framed

    with reading(path):
        picture = torch.as_tensor(matplotlib.image.imread(path, format="png")).double()
        if picture.dim() == 3:
            seen = picture[..., 3] if picture.shape[2] == 4 else 1.0
            picture = picture[..., :3].mean(-1) * seen
    try:
        return framed(picture, resolution)
    except ValueError as error:
        raise UnreadableFile(path, str(error)) from None
