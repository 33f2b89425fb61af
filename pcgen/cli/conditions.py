"""What a shape is to be, as a conditional model takes it: from the command line, or of shapes to measure against."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from pcgen.cli.inputs import read_one
from pcgen.cli.models import AtHand, own_frame
from pcgen.cli.parser import Parser

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.data import ShapeSplit
    from pcgen.models import ConditionConfig

__all__ = ["add_condition", "conditions_of", "example_option", "of_classes", "read_condition"]

# The option that each kind of condition takes.
OPTIONS = {"class": "--class", "depth": "--image", "silhouette": "--image", "cloud": "--part"}


def add_condition(parser: Parser, guidance: bool = True) -> None:
    """--class, --image and --part, and --guidance where asked for."""
    told = parser.add_argument_group("condition", "of a model that was trained with them, one of:")
    told.add_argument("--class", dest="class_name", metavar="NAME", help="of the training data, as Slope")
    told.add_argument("--image", metavar="PNG", help="a silhouette or depth picture before black, whichever it learnt")
    told.add_argument("--part", metavar="FILE", help="points of a part of the shape, at their place: a cloud or mesh")
    if guidance:
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


def example_option(condition: ConditionConfig | None) -> str:
    """What to add to an example of ``pcgen sample``, after a space: a condition, if the model takes one."""
    if condition is None:
        return ""
    return f" {OPTIONS[condition.kind]} {shlex.quote(condition.classes[0]) if condition.classes else 'FILE'}"


def of_classes(split: ShapeSplit, condition: ConditionConfig | None) -> ShapeSplit:
    """The shapes whose class a model can be told; all of them where it is told none or something else."""
    from pcgen.data import ShapeSplit

    if condition is None or condition.kind != "class":
        return split
    known = [i for i, category in enumerate(split.categories) if category in condition.classes]
    return ShapeSplit(*(tuple(of[i] for i in known) for of in (split.names, split.categories, split.clouds)))


def conditions_of(at: AtHand, split: ShapeSplit, shapes: int, seed: int) -> Any:
    """What so many generated shapes are told, in turns that of each of a split's; None for a model without conditions.

    What is drawn for shape i, points and then a view or the direction of a part, is a function of (seed, i). The split
    is placed where the model makes shapes, and of a model by class holds shapes of its classes alone.
    """
    import torch

    from pcgen.training.noise import step_noise

    condition = at.model.condition
    if condition is None:
        return None
    turns = [i % len(split) for i in range(shapes)]
    names = [split.categories[i] for i in turns]
    if condition.config.kind == "class":
        return names
    streams = step_noise(seed, 0, 0, range(shapes))
    # As many points as training shows, drawn as there: with replacement, so that clouds may be of any size.
    clouds = [torch.as_tensor(split.input(i)) for i in turns]
    clouds = [cloud[torch.randint(len(cloud), (at.points,), generator=g)] for cloud, g in zip(clouds, streams)]
    told = at.model.shown(at.model.standardise(torch.stack(clouds)), names, streams, at.up)
    return at.model.to_data(told) if condition.config.kind == "cloud" else told
