"""Pure functions on coordinates: sets of rays, and stars, bodies given by a centre and a length along each ray."""

from pcgen.geometry.polar import centerness, polar_iou, polar_iou_loss
from pcgen.geometry.rays import Facet, Rays, circle, cube_sphere, fibonacci, icosphere, lat_lon, rays
from pcgen.geometry.stars import StarMesh, inside, membership, mesh, radius, volume
from pcgen.geometry.symmetry import Rotations

__all__ = [
    "Facet",
    "Rays",
    "Rotations",
    "StarMesh",
    "centerness",
    "circle",
    "cube_sphere",
    "fibonacci",
    "icosphere",
    "inside",
    "lat_lon",
    "membership",
    "mesh",
    "polar_iou",
    "polar_iou_loss",
    "radius",
    "rays",
    "volume",
]
