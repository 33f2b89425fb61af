"""pcgen: generate, measure and segment 3-D point clouds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pcgen._version import __version__

if TYPE_CHECKING:
    from pcgen.metrics import evaluate
    from pcgen.models import PointFlow, PointFlowConfig
    from pcgen.training import load_model as load

__all__ = ["PointFlow", "PointFlowConfig", "__version__", "evaluate", "load"]

# Found when first asked for (PEP 562): `pcgen --help` must not wait for PyTorch.
_HOMES = {
    "PointFlow": ("pcgen.models", "PointFlow"),
    "PointFlowConfig": ("pcgen.models", "PointFlowConfig"),
    "evaluate": ("pcgen.metrics", "evaluate"),
    "load": ("pcgen.training", "load_model"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pcgen' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
