"""The command line: each command parses its arguments, loads, calls one function and writes.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from pcgen._version import __version__
from pcgen.cli import data, evaluate, generate, info, measure, oracle, segment, train
from pcgen.cli.parser import Parser

__all__ = ["main"]

OVERVIEW = """\
Generate, measure and look at 3-D point clouds with PointFlow (Yang et al., ICCV 2019).

  pcgen train demo                        a first run, in minutes, on synthetic chairs
  pcgen train --data FOLDER               your own meshes or clouds; settings fit the machine
  pcgen sample runs/demo -n 32            new shapes, and a picture of them
  pcgen segment scan.ply RUN -o out.ply   the objects in a scan, by a trained PolarMask3D
  pcgen oracle scans/                     how well rays can hold them at all
  pcgen COMMAND --help                    what a command does, with examples"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for a mistake told in one line, 130 if interrupted.

    >>> main(["smaple"])
    2
    """
    arguments = None
    with contextlib.suppress(AttributeError):  # a name that the terminal cannot show is no mistake; logs grow by lines
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            arguments = _parse(sys.argv[1:] if argv is None else argv)
            arguments.run(arguments)
            sys.stdout.flush()
    except SystemExit as done:  # argparse after --help and --version
        return int(done.code or 0)
    except BrokenPipeError:  # whoever read us has enough, as in `pcgen data show FOLDER | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        print(f"pcgen: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        if os.environ.get("PCGEN_DEBUG"):
            traceback.print_exc()
        if arguments or os.environ.get("RANK", "0") == "0":  # all processes get the same words: one tells what is wrong
            print(f"pcgen: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    arguments, rest = build_parser().parse_known_args(argv)
    # argparse gives words that stand after an option up; `train` takes them in any place.
    words = [word for word in rest if hasattr(arguments, "words") and not word.startswith("-")]
    if words:
        arguments.words += words
    if unknown := [word for word in rest if word not in words]:
        arguments.parser.error(f"unknown argument {' '.join(unknown)}")
    return arguments


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="pcgen", description=OVERVIEW)
    parser.add_argument("--version", action="version", version=f"pcgen {__version__}")
    parser.set_defaults(run=lambda arguments: parser.print_help(), parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for module in (train, generate, measure, evaluate, oracle, segment, data, info):
        module.add_commands(commands)
    return parser


def _is_out_of_memory(error: RuntimeError) -> bool:
    """PyTorch raises no MemoryError: of its errors these come from sizes that a user asked for."""
    words = "allocate memory", "out of memory", "Storage size calculation overflowed"
    return any(each in str(error) for each in words)


def _warn(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"pcgen: warning: {_one_line(message)}", file=sys.stderr)


def _one_line(error: object) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without the number
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return " ".join(text.split()) or type(error).__name__
