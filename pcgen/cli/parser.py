"""What the commands' parsers share: one-line mistakes, help with examples, and the types of arguments."""

from __future__ import annotations

import argparse
import difflib
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

__all__ = [
    "CLOUD_SUFFIXES",
    "Parser",
    "add_command",
    "add_input",
    "add_input_points",
    "add_model",
    "add_original",
    "at_least",
    "nearest",
    "output",
    "writable",
]

CLOUD_SUFFIXES = (".npz", ".npy", ".ply")


def nearest(word: str, legal: Iterable[str]) -> str:
    """The legal word that looks most like ``word``.

    >>> nearest("smaple", ["train", "sample"])
    'sample'
    """
    return difflib.get_close_matches(word, list(legal), n=1, cutoff=0.0)[0]


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Paragraphs and examples as they are written, and room for the options' names."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=110)


class Parser(argparse.ArgumentParser):
    """Raises ``ValueError`` for a mistake; a word that is no choice is answered with the nearest one."""

    def __init__(self, **options):
        super().__init__(formatter_class=_formatter, allow_abbrev=False, **options)

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: str) -> None:
        if action.choices is not None and value not in action.choices:
            legal = [str(choice) for choice in action.choices]
            message = f"no {value!r}, the nearest is {nearest(str(value), legal)!r} (of {', '.join(legal)})"
            raise argparse.ArgumentError(action, message)


def add_command(
    commands, name: str, run: Callable[[argparse.Namespace], None], summary: str, text: str, examples: Sequence[str]
) -> Parser:
    """A subcommand with a paragraph of description and examples under its options."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(" ".join(text.split()), 100),
        epilog="\n  ".join(["examples:", *examples]),
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def at_least(least: float, kind: type = int) -> Callable[[str], float]:
    """An argument's type: a number that is not below ``least``."""

    def number(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least:  # not `<`: NaN is refused too
            what = "an integer" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {what} of at least {least}, got {text!r}")
        return value

    return number


def output(*suffixes: str) -> Callable[[str], Path]:
    """An argument's type: a file to be written, whose suffix says how, where a file can be written."""

    def path(text: str) -> Path:
        if Path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"expected a file name ending in {' or '.join(suffixes)}, got {text!r}")
        if Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"expected the name of a file, {text!r} is a folder")
        try:
            return writable(Path(text))
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{error.strerror}: {error.filename}") from None

    return path


def writable(path: Path) -> Path:
    """``path`` itself, if it can be made: checked before long work, which would be lost otherwise.

    Raises:
        NotADirectoryError, PermissionError: the nearest folder above that exists is none, or not to be written to.
    """
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise NotADirectoryError(20, "not a folder", str(above))
    if not os.access(above, os.W_OK):
        raise PermissionError(13, "no permission to write in", str(above))
    return path


def add_model(parser: Parser) -> None:
    """CHECKPOINT and --device, and what no tensor of an original's checkpoint tells."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run, one of its checkpoints, or an original .pt")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU if there is one [auto]")
    add_original(parser)


def add_original(parser: Parser) -> None:
    original = parser.add_argument_group("for a .pt of the original PointFlow program")
    original.add_argument("--mean", type=Path, metavar="NPY", help="the data's mean (3,) [0, 0, 0]")
    original.add_argument("--scale", type=Path, metavar="NPY", help="the data's standard deviation, (1,) or (3,) [1]")
    original.add_argument("--time-length", type=at_least(1e-9, float), metavar="T", help="if it was not trained [0.5]")
    original.add_argument("--nonlinearity", metavar="NAME", help="of the flows' networks [tanh]")
    original.add_argument("--layer", metavar="NAME", help="of the flows' networks [concatsquash]")


def add_input(parser: Parser) -> None:
    """INPUT, and how clouds are brought to an encoder."""
    parser.add_argument("input", metavar="INPUT", help="clouds or meshes: a file or a folder")
    add_input_points(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first unusable file of a folder")


def add_input_points(parser: Parser) -> None:
    parser.add_argument(
        "--input-points",
        type=at_least(1),
        metavar="N",
        help="of each cloud, drawn by --seed, for the encoder [as many as the model was trained with]",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of everything that is drawn [%(default)s]")
