"""Labelled scenes in unlimited supply by seed, of which everything is known: every whole object and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pcgen.config import Settings

from ..meshes import Mesh
from ..scenes import Scene, Source, make_scene
from ..splits import Split
from .scenes_layout import lay_out
from .scenes_models import Catalogue, catalogue, draw_model
from .scenes_room import FLOOR, WALL, make_room
from .scenes_scan import Hits, sample_area, scan
from .streams import stream

__all__ = ["GeneratedScene", "PlacedObject", "SceneSettings", "Surface", "generate_scene"]

# What a stream of random numbers is for; points and their noise are one.
LAYOUT, SENSORS, POINTS, ROOM = range(4)

_FIRST = 3  # class of the first category, after those of the room
_SCAN_DISTANCE = 2.0  # metres from the sensor at which a scan has the spacing asked for
_CLEAR = 0.3  # metres that a sensor keeps from objects, if it can


@dataclass(frozen=True)
class SceneSettings(Settings):
    """What stands in a generated scene and how it is sampled; lengths in metres, z up."""

    source: str = "synthetic"  # "synthetic", or a folder of meshes
    categories: tuple[str, ...] = ()  # of objects; () is all there are
    split: Split = "train"  # which objects may appear; no object is in two splits
    up: Literal["x", "y", "z"] = "y"  # the axis that points up in the meshes of a folder
    size: tuple[float, float] | None = None  # box diagonals of objects; None: usual ones (synthetic), the files' own
    objects: tuple[int, int] = (8, 16)  # fewest and most; those for which there is no room are left out
    floor: tuple[float, float] = (3.0, 5.0)  # shortest and longest side of the rectangular floor
    walls: float = 2.5  # height of the walls around it, 0 for none
    wall_thickness: float = 0.0  # above 0 the walls have outer faces too
    openings: tuple[int, int] = (0, 0)  # fewest and most frames of windows and doors in the walls
    against: float = 0.0  # share of the objects that stand, if on the floor, with their backs to a wall
    gap: float = 0.05  # smallest distance between the outlines of objects in plan; negative: they may overlap so far
    touching: float = 0.3  # share of the objects that stand at exactly `gap` from another
    stacked: float = 0.2  # share of the objects, the smallest, that stand on another where one is level enough
    sampling: Literal["area", "scan"] = "area"  # independent points on all surfaces, or what sensors see
    spacing: float = 0.02  # between points: one for each square of this edge; of a scan, at 2 m from the sensor
    noise: float = 0.0  # standard deviation, in every direction (area) or along the ray (scan)
    sensors: int = 1  # positions that a scan is taken from
    sensor_height: tuple[float, float] = (1.2, 1.8)  # lowest and highest above the floor

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = ("size", "floor", "walls", "wall_thickness", "gap", "spacing", "noise", "sensor_height")
        for name, value in ((name, getattr(self, name)) for name in lengths):
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite, got {value}")
        for name, least in (("objects", 0), ("openings", 0), ("floor", 0.0), ("size", 0.0), ("sensor_height", 0.0)):
            low, high = getattr(self, name) or (1.0, 1.0)
            if not least <= low <= high or (name in ("floor", "size") and low <= 0):
                raise ValueError(f"{name} must be two numbers in order, {least} or more, got {getattr(self, name)}")
        for name in ("touching", "stacked", "against"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")
        if not self.spacing > 0 or self.sensors < 1 or min(self.noise, self.walls, self.wall_thickness) < 0:
            raise ValueError(
                f"spacing must be positive, sensors at least 1, noise and walls not negative, "
                f"got spacing {self.spacing}, sensors {self.sensors}, noise {self.noise}, walls {self.walls} and "
                f"wall_thickness {self.wall_thickness}"
            )


class Surface(NamedTuple):
    """All triangles of a scene and whose they are."""

    mesh: Mesh  # in the frame of the scene's points
    owner: np.ndarray  # (F,) int64: the object's number, 0 of floor and walls


@dataclass(frozen=True, eq=False)
class PlacedObject:
    """One object: its whole shape and its pose."""

    name: str  # of the synthetic shape, "chair/51", or of the file
    category: str
    model: Mesh  # before it is placed: z up, standing on z = 0, its box centred on the z axis, in metres
    angle: float  # radians, about up
    position: np.ndarray  # (3,) float64 of the middle of its base
    support: int  # the number of the object it stands on, 0 for the floor

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) float64, from the model's frame to the scene's."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = _turn(self.angle), self.position
        return pose

    @property
    def mesh(self) -> Mesh:
        """The whole object in the scene, seen or not."""
        return Mesh(self.model.vertices @ _turn(self.angle).T + self.position, self.model.faces)


@dataclass(frozen=True, eq=False)
class GeneratedScene:
    """A scene and the truth behind it.

    Objects are numbered from 1: object k is ``objects[k - 1]``. One that no point lies on is no instance, hence
    instance i of the scene is object ``scene.instance_ids[i - 1]``.
    """

    scene: Scene  # attribute "sensor" (N,) says which sensor saw a point of a scan
    objects: tuple[PlacedObject, ...]
    room: Mesh  # the floor, and walls if any; one-sided
    sensors: np.ndarray  # (S, 3) float64, (0, 3) without a scan
    seed: int
    settings: SceneSettings

    @property
    def surface(self) -> Surface:
        """Every triangle of room and objects: what to cast rays against for whole lengths, visibility, free space."""
        return _joined(self.room, [thing.mesh for thing in self.objects])


def generate_scene(seed: int, settings: SceneSettings | None = None) -> GeneratedScene:
    """The scene of this ``seed`` (0, 1, 2, …) and these settings, always the same.

    Objects stand upright on a floor or on one another, turned about up, and do not interpenetrate unless ``gap`` is
    negative. What stands where depends on the seed and the settings of objects and layout alone: other spacing, noise
    or sampling give other points on the same objects.

    ``ValueError`` for a negative seed, a category or split without objects, or a floor too small for any of them.

    >>> made = generate_scene(0, SceneSettings(objects=(3, 3), spacing=0.1))
    >>> len(made.objects), made.scene.instances, made.scene.classes[1]
    (3, 3, 'floor')
    """
    settings = settings or SceneSettings()
    things = catalogue(settings.source, settings.categories, settings.split)
    floor, objects = _furnished(settings, things, stream(seed, LAYOUT))
    room, part = make_room(floor, settings.walls, settings.wall_thickness, settings.openings, stream(seed, ROOM))
    surface = _joined(room, [thing.mesh for thing in objects])
    sensors = np.empty((0, 3))
    if settings.sampling == "scan":
        sensors = _sensors(settings, floor, surface, stream(seed, SENSORS))
    hits, sensor = _points(settings, surface.mesh, sensors, stream(seed, POINTS))
    if not len(hits.face):
        raise ValueError(f"a spacing of {settings.spacing} is too coarse for this scene: it has no points")
    of_object = [0, *(_FIRST + things.categories.index(thing.category) for thing in objects)]
    semantic = np.concatenate([part, np.array(of_object)[surface.owner[len(part) :]]])
    scene = make_scene(
        hits.points,
        semantic=semantic[hits.face],
        instance=surface.owner[hits.face],
        classes={FLOOR: "floor", WALL: "wall"} | dict(enumerate(things.categories, _FIRST)),
        attributes={} if sensor is None else {"sensor": sensor},
        source=Source(format="generated"),
    )
    return GeneratedScene(scene, objects, room, sensors, int(seed), settings)


def _turn(angle: float) -> np.ndarray:
    """(3, 3) the rotation about z."""
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def _furnished(
    settings: SceneSettings, things: Catalogue, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[PlacedObject, ...]]:
    """The size of the floor, and what stands on it."""
    count = int(rng.integers(settings.objects[0], settings.objects[1] + 1))
    floor = tuple(rng.uniform(*settings.floor, 2).tolist())
    models = [draw_model(things, settings.size, settings.up, rng) for _ in range(count)]
    angles, walls = rng.uniform(0, 2 * np.pi, count).tolist(), [None] * count
    if settings.against:
        for i in np.flatnonzero(rng.random(count) < settings.against):
            walls[i] = int(rng.integers(4))
            angles[i] = (walls[i] - 1) * np.pi / 2  # fronts are towards -y, backs towards +y, which is side 1
    turned = [Mesh(m.mesh.vertices @ _turn(angle).T, m.mesh.faces) for m, angle in zip(models, angles)]
    placed = lay_out(turned, floor, settings.gap, settings.touching, settings.stacked, rng, walls)
    if count and not placed:
        raise ValueError(f"none of {count} objects fits a floor of {floor[0]:.2f} x {floor[1]:.2f} m")
    number = {-1: 0} | {i: k for k, i in enumerate(placed, start=1)}
    return floor, tuple(
        PlacedObject(models[i].name, models[i].category, models[i].mesh, angles[i], it.position, number[it.support])
        for i, it in placed.items()
    )


def _joined(room: Mesh, objects: list[Mesh]) -> Surface:
    meshes = [room, *objects]
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)])
    owner = np.repeat(np.arange(len(meshes)), [len(mesh.faces) for mesh in meshes])
    return Surface(Mesh(np.concatenate([mesh.vertices for mesh in meshes]), faces), owner)


def _sensors(
    settings: SceneSettings, floor: tuple[float, float], surface: Surface, rng: np.random.Generator
) -> np.ndarray:
    """(S, 3) positions over the floor: of 64 drawn for each, the first that is clear of objects, else the clearest."""
    from scipy.spatial import cKDTree

    things = Mesh(surface.mesh.vertices, surface.mesh.faces[surface.owner > 0])
    obstacles = sample_area(things, max(_CLEAR / 3, settings.spacing), rng).points
    half = np.array(floor) / 2 - min(_CLEAR, *(side / 4 for side in floor))
    chosen = []
    for _ in range(settings.sensors):
        at = np.column_stack([rng.uniform(-half, half, (64, 2)), rng.uniform(*settings.sensor_height, 64)])
        away = cKDTree(obstacles).query(at)[0] if len(obstacles) else np.full(64, np.inf)
        chosen.append(at[np.argmax(np.minimum(away, _CLEAR))])
    return np.array(chosen)


def _points(
    settings: SceneSettings, mesh: Mesh, sensors: np.ndarray, rng: np.random.Generator
) -> tuple[Hits, np.ndarray | None]:
    """The points and, of a scan, the sensor that saw each."""
    if settings.sampling == "area":
        hits = sample_area(mesh, settings.spacing, rng)
        noise = rng.standard_normal(hits.points.shape) * settings.noise
        return hits._replace(points=hits.points + noise), None
    views = [scan(mesh, sensor, settings.spacing / _SCAN_DISTANCE) for sensor in sensors]
    points = []
    for sensor, view in zip(sensors, views):
        ray = view.points - sensor
        length = np.linalg.norm(ray, axis=1, keepdims=True)
        points.append(view.points + ray / length * (rng.standard_normal(length.shape) * settings.noise))
    hits = Hits(np.concatenate(points), np.concatenate([view.face for view in views]))
    return hits, np.repeat(np.arange(len(views), dtype=np.int32), [len(view.face) for view in views])
