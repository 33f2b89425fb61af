"""Continuous normalizing flows: velocity networks, solvers, log-densities and objectives."""

from pcgen.flows.cnf import (
    CNF,
    Energies,
    Flow,
    FlowConfig,
    Trace,
    Transport,
    divergence,
    standard_normal_log_density,
)
from pcgen.flows.coupling import exact_coupling, kd_coupling
from pcgen.flows.layers import LAYERS, NONLINEARITIES, VelocityNet
from pcgen.flows.norm import MovingBatchNorm
from pcgen.flows.objectives import LogDensity, flow_matching_error, log_density, stratified_times
from pcgen.flows.replay import Replayed
from pcgen.flows.solver import FIXED_STEP, SolverConfig, solve

__all__ = [
    "CNF",
    "FIXED_STEP",
    "LAYERS",
    "NONLINEARITIES",
    "Energies",
    "Flow",
    "FlowConfig",
    "LogDensity",
    "MovingBatchNorm",
    "Replayed",
    "SolverConfig",
    "Trace",
    "Transport",
    "VelocityNet",
    "divergence",
    "exact_coupling",
    "flow_matching_error",
    "kd_coupling",
    "log_density",
    "solve",
    "standard_normal_log_density",
    "stratified_times",
]
