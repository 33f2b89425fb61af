"""Several ways to do one thing, timed in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    wait: Callable[[], object] = lambda: None,
    warm_up: int = 1,
) -> dict[str, float]:
    """Median seconds of each call after ``warm_up`` rounds; CPU time where one CPU thread does the work.

    ``wait`` returns when a device has finished.
    """
    on_cpu = torch.get_num_threads() == 1 and wait is not torch.cuda.synchronize
    clock = time.process_time if on_cpu else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + warm_up):
        for name, call in calls.items():
            wait()
            start = clock()
            call()
            wait()
            if repeat >= warm_up:
                taken[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in taken.items()}
