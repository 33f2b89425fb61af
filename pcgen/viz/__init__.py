"""Pictures: galleries of point clouds and training curves as PNG files, and the report of a measurement."""

from pcgen.viz.curves import curves
from pcgen.viz.gallery import draw_cloud, gallery
from pcgen.viz.instances import instance_colours, instance_picture
from pcgen.viz.report import report

__all__ = ["curves", "draw_cloud", "gallery", "instance_colours", "instance_picture", "report"]
