"""Pictures: galleries of point clouds and training curves, written as PNG files."""

from pcgen.viz.curves import curves
from pcgen.viz.gallery import draw_cloud, gallery

__all__ = ["curves", "draw_cloud", "gallery"]
