"""pcgen: generate, measure and segment 3-D point clouds."""

from pcgen._version import __version__
from pcgen.metrics import evaluate
from pcgen.models import PointFlow, PointFlowConfig
from pcgen.training import load_model as load

__all__ = ["PointFlow", "PointFlowConfig", "__version__", "evaluate", "load"]
