"""What a run tells: a progress bar, one JSON row per stretch of steps, and TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from pcgen.data.files import replacing

__all__ = ["Telemetry", "read_history"]

HISTORY = "history.jsonl"


def read_history(folder: Path) -> list[dict]:
    """The rows that a run has written, a cut-off last line left out."""
    rows = []
    path = folder / HISTORY
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Telemetry:
    """Collects numbers per step, and reports their means every ``every`` steps."""

    def __init__(self, folder: Path, total: int, done: int, every: int = 20, quiet: bool = False):
        self.folder, self.every, self.quiet = folder, every, quiet
        self._window: dict[str, list[float]] = {}
        self._steps = 0
        # A resumed run replays the steps after its checkpoint: their rows are written again.
        rows = [row for row in read_history(folder) if row["step"] <= done]
        with replacing(folder / HISTORY) as stream:
            stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file = open(folder / HISTORY, "a", encoding="utf-8")  # noqa: SIM115  closed in close()
        self._board = _tensorboard(folder, done)
        self._bar = tqdm(total=total, initial=done, unit="step", disable=quiet or None, dynamic_ncols=True)

    def step(self, step: int, epoch: int, seconds: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._window.setdefault(name, []).append(value)
        self._steps += 1
        self._bar.update()
        if self._steps >= self.every:
            # Each over the steps that had it: the prior's stage has fewer terms.
            means = {name: sum(series) / len(series) for name, series in self._window.items()}
            self._window, self._steps = {}, 0
            self._bar.set_postfix(_shown(means))
            self.write(step, epoch, seconds, means)

    def write(self, step: int, epoch: int, seconds: float, values: Mapping[str, float]) -> None:
        """One row of the history, and the same to TensorBoard."""
        row = {"step": step, "epoch": epoch, "seconds": round(seconds, 3), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                if math.isfinite(value):
                    self._board.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if not self.quiet:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        if self._board:
            self._board.close()


def _shown(means: Mapping[str, float]) -> dict[str, str]:
    """What stands at the bar: losses by their names, and evaluations per solve, of the adjoint's after a plus.

    >>> _shown({"train/points": 0.25, "evaluations/points": 38.0, "evaluations/points_backward": 44.5})
    {'points': '0.25', 'evaluations of points': '38+44.5'}
    """
    shown = {name.split("/", 1)[-1]: f"{value:.4g}" for name, value in means.items() if "evaluations" not in name}
    for name, value in means.items():
        if name.startswith("evaluations/") and not name.endswith("_backward"):
            backward = means.get(f"{name}_backward", 0.0)
            shown[f"evaluations of {name.split('/')[1]}"] = f"{value:.4g}" + (f"+{backward:.4g}" if backward else "")
    return shown


def _tensorboard(folder: Path, done: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # curves are in the history all the same
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done)
