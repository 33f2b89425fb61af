"""Optimiser steps in several processes against one, each of them with one thread, sharing the same batch by gloo.

    python benchmarks/processes.py [--processes 2] [--shapes 16] [--points 2048] [--repeats 7] [--objective likelihood]

Both worlds train the paper's network from the same weights on the same clouds; they take turns, and the medians are
printed. Where other work shares the cores, wall time says as much about that work: the last column is what the CPU
time of the busiest process alone would give.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time

SETTINGS = {
    "flow_matching": [],
    "likelihood": [
        *("model.objective.name=likelihood", "model.sampler=null", "model.latent_sampler=null"),
        *("model.point_flow.norm=moving", "model.latent_flow.norm=moving"),
        *("model.point_flow.train_time=true", "model.latent_flow.train_time=true"),
    ],
}


def worker(rank: int, size: int, port: int, args: argparse.Namespace, pipe) -> None:
    """Answers each message with (wall seconds, CPU seconds of this process) of one step."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    import torch

    from pcgen.config import read
    from pcgen.data import load
    from pcgen.training import RunConfig, State, Team, loop, stages, task_of

    torch.set_num_threads(1)
    words = [f"data.shapes={args.shapes}", f"data.points={args.points}", f"training.batch={args.shapes}"]
    config = read(RunConfig, overrides=[*words, *SETTINGS[args.objective], "training.device=cpu"])
    loop.keep_freed_memory()
    task, team = task_of(config, load(config.data)), Team("cpu")
    state = State(config, task.build_model())
    (stage,) = stages(config, lambda batch: 1)
    state.enter(stage)
    (batch,) = task.batches(stage, 0, 0, (team.rank, team.size))
    while pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        loop._step(state, stage, batch, task, team, None)
        pipe.send((time.perf_counter() - wall, time.process_time() - cpu))


class World:
    """Processes that train together."""

    def __init__(self, size: int, args: argparse.Namespace):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            self.processes.append(context.Process(target=worker, args=(rank, size, port, args, theirs), daemon=True))
            self.processes[-1].start()
            self.pipes.append(ours)

    def step(self) -> tuple[float, list[float]]:
        """Wall seconds until the last has finished, and the CPU seconds of each."""
        for pipe in self.pipes:
            pipe.send(True)
        wall, cpu = zip(*(pipe.recv() for pipe in self.pipes))
        return max(wall), list(cpu)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(False)
        for process in self.processes:
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shapes", type=int, default=16)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--objective", choices=SETTINGS, default="flow_matching")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    worlds = {1: World(1, args), args.processes: World(args.processes, args)}
    rows = {size: [] for size in worlds}
    for turn in range(args.repeats + 1):
        for size, world in worlds.items():
            found = world.step()
            if turn:  # the first warms up
                rows[size].append(found)
    for world in worlds.values():
        world.close()
    wall = {size: statistics.median(seconds for seconds, _ in found) for size, found in rows.items()}
    busiest = {size: statistics.median(max(cpu) for _, cpu in found) for size, found in rows.items()}
    what = f"{args.objective}, {args.shapes} shapes x {args.points} points"
    print(f"{what}, one thread a process; load of the machine {os.getloadavg()[0]:.1f}\n")
    print("| processes | s a step | against one | CPU s of the busiest | against one, by CPU time |")
    print("|---|---|---|---|---|")
    for size in worlds:
        times = f"{wall[size]:.3f} | {wall[1] / wall[size]:.2f} x | {busiest[size]:.3f}"
        print(f"| {size} | {times} | {busiest[1] / busiest[size]:.2f} x |")


if __name__ == "__main__":
    main()
