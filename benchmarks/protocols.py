"""The same clouds under every protocol: how far apart one set of samples lands.

Samples are half of the training shapes, references the validation shapes, both with the points that each protocol
takes: a perfect generator, so that what differs is the measurement. Scores and the half-widths of their 90 %
intervals are printed, with the seconds that each row took.

    python benchmarks/protocols.py FOLDER [--points 2048] [--clouds 60] [--scale 1]

FOLDER is a category of a PC15k data set, such as bodies.PC15k/body. --scale multiplies all coordinates: the named
protocols measure absolute lengths, "exact" does not.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np

from pcgen.data import read_clouds
from pcgen.metrics import PROTOCOLS, evaluate, pc15k_references

COLUMNS = ("mmd_cd", "mmd_emd", "cov_cd", "cov_emd", "one_nna_cd", "one_nna_emd", "jsd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--clouds", type=int, default=60)
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # about mass and the ball: both shares are printed
    whole = {
        split: [args.scale * cloud.astype(np.float64) for cloud in read_clouds(args.folder / split).points]
        for split in ("train", "val")
    }
    samples = [cloud[: args.points] for cloud in whole["train"][: args.clouds]]
    print(f"| protocol | {' | '.join(COLUMNS)} | mass moved | outside the ball | s |\n|{'---|' * (len(COLUMNS) + 4)}")
    for protocol in PROTOCOLS:
        start = time.perf_counter()
        references = pc15k_references(whole["val"][: args.clouds], protocol, args.points)
        scores = evaluate(samples, references, protocol)
        found = scores.scores()
        cells = [
            f"{found[name]:.4g} ± {np.ptp(scores.intervals[name]) / 2:.2g}" if name in found else "–"
            for name in COLUMNS
        ]
        moved = "–" if scores.moved is None else f"{scores.moved:.1%}"
        seconds = time.perf_counter() - start
        print(
            f"| {protocol} | {' | '.join(cells)} | {moved} | {scores.outside_ball[0]:.0%} | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
