"""Pure functions on coordinates: sets of rays, and stars, bodies given by a centre and a length along each ray.

Ray lengths of labelled instances are in :mod:`pcgen.geometry.targets`.
"""

from pcgen.geometry.overlap import Overlap, star_overlap
from pcgen.geometry.polar import centerness, polar_iou, polar_iou_loss
from pcgen.geometry.raycast import Hits, cast, mesh_rays, mesh_tree, visible
from pcgen.geometry.rays import Facet, Rays, circle, cube_sphere, fibonacci, icosphere, lat_lon, rays
from pcgen.geometry.stars import StarMesh, inside, membership, mesh, radius, volume
from pcgen.geometry.suppression import mask_nms, matrix_nms, star_nms
from pcgen.geometry.symmetry import Rotations
from pcgen.geometry.targets import Targets, centres_of

__all__ = [
    "Facet",
    "Hits",
    "Overlap",
    "Rays",
    "Rotations",
    "StarMesh",
    "Targets",
    "cast",
    "centerness",
    "centres_of",
    "circle",
    "cube_sphere",
    "fibonacci",
    "icosphere",
    "inside",
    "lat_lon",
    "mask_nms",
    "matrix_nms",
    "membership",
    "mesh",
    "mesh_rays",
    "mesh_tree",
    "polar_iou",
    "polar_iou_loss",
    "radius",
    "rays",
    "star_nms",
    "star_overlap",
    "visible",
    "volume",
]
