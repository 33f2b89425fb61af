"""pcgen: generate, measure and segment 3-D point clouds."""

from pcgen._version import __version__
from pcgen.models import PointFlow, PointFlowConfig

__all__ = ["PointFlow", "PointFlowConfig", "__version__"]
