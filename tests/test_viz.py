"""Pictures: the right pixels are covered, odd clouds are survived, files appear whole or not at all."""

import numpy as np
import pytest
from matplotlib.image import imread

from pcgen.viz import curves, draw_cloud, gallery, instance_colours, instance_picture
from pcgen.viz.curves import _panels


def covered(image):
    return (image[..., :3] < 0.99).any(-1)


def sphere(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_sphere_covers_a_disc():
    image = draw_cloud(sphere(20_000), 200)
    assert image.dtype == np.float32
    assert image.shape == (200, 200, 3)
    assert covered(image).mean() == pytest.approx(np.pi / 4 * 0.92**2, rel=0.06)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_up_is_up_and_front_faces_the_viewer(up):
    """From azimuth 0 and elevation 0 the up axis runs upward; the forward axis is not seen."""
    axis, forward = {"x": (0, 1), "y": (1, 2), "z": (2, 0)}[up]
    cloud = np.zeros((50, 3))
    cloud[:, axis] = np.linspace(0, 1, 50)
    cloud[:10, 3 - axis - forward] = np.linspace(0, 0.5, 10)  # a foot to one side
    rows, _ = np.nonzero(covered(draw_cloud(cloud, 100, up=up, view=(0, 0))))
    assert rows.max() - rows.min() > 85
    bottom = covered(draw_cloud(cloud, 100, up=up, view=(0, 0)))[60:].sum()
    assert bottom > 1.3 * covered(draw_cloud(cloud, 100, up=up, view=(0, 0)))[:40].sum()
    cloud = np.zeros((50, 3))
    cloud[:, forward] = np.linspace(0, 1, 50)
    assert covered(draw_cloud(cloud, 100, up=up, view=(0, 0))).mean() < 0.02


def test_axes_are_right_handed():
    """Seen from the front with y up, +x is at the right."""
    cloud = np.array([(x, 0.0, 0.0) for x in np.linspace(-1, 1, 40)] + [(1.0, y, 0.0) for y in np.linspace(0, 1, 40)])
    image = covered(draw_cloud(cloud, 100, view=(0, 0)))
    assert image[:, 60:].sum() > 1.5 * image[:, :40].sum()


def test_nearer_points_hide_farther_ones():
    """A small low square under a large high one is seen from below only; low is blue, high is yellow."""
    square = np.stack([*np.meshgrid(np.linspace(-1, 1, 60), [0], np.linspace(-1, 1, 60))], -1).reshape(-1, 3)
    cloud = np.concatenate([0.4 * square, square + np.array([0, 1, 0])])
    from_above, from_below = (draw_cloud(cloud, 100, view=(elevation, 0)) for elevation in (90, -90))
    blue = [(image[..., 2] > image[..., 0] + 0.05) for image in (from_above, from_below)]
    assert blue[0].sum() == 0
    assert blue[1].mean() == pytest.approx((0.4 * 0.92) ** 2, rel=0.2)


def test_order_of_points_does_not_matter():
    cloud = sphere(400)
    np.testing.assert_allclose(draw_cloud(cloud[::-1], 64), draw_cloud(cloud, 64), atol=1e-5)


def test_gallery_lays_out_rows_and_columns(tmp_path):
    cube = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    rows = {"ab": np.stack([cube] * 5), "c": [cube, cube[1:]]}
    path = gallery(rows, tmp_path / "new" / "g.png", columns=3, size=0.8, title="cubes", view=(0, 0))
    assert path == tmp_path / "new" / "g.png"
    height, width = imread(path).shape[:2]
    assert (height, width) == (3 * 80 + 26, 3 * 80 + 12 + 7 * 2)
    assert [p.name for p in path.parent.iterdir()] == ["g.png"]


def test_names_of_files_are_no_formulas(tmp_path):
    """What stands between two $ would be set as mathematics, and refused where it is none."""
    rows = {"cost$_$of.obj": sphere(50)}
    assert gallery(rows, tmp_path / "g.png", title="$^$").is_file()


def tile(path, column, size=100, left=0):
    image = imread(path)
    return covered(image[:size, left + column * size : left + (column + 1) * size])


def test_one_scale_or_one_for_each(tmp_path):
    clouds = [sphere(2000), 0.25 * sphere(2000)]
    same = gallery({"": clouds}, tmp_path / "same.png", size=1)
    each = gallery({"": clouds}, tmp_path / "each.png", size=1, same_scale=False)
    assert tile(same, 1).sum() < 0.2 * tile(same, 0).sum()
    assert tile(each, 1).sum() == pytest.approx(tile(each, 0).sum(), rel=0.05)


def test_what_is_not_finite_is_left_out(tmp_path):
    clean = sphere(500)
    spoiled = np.concatenate([clean, [(np.nan, 0, 0), (np.inf, 0, 0), (0, -np.inf, 1)]])
    np.testing.assert_array_equal(draw_cloud(spoiled, 64), draw_cloud(clean, 64))
    rows = {"": [clean, np.full((9, 3), np.nan), np.empty((0, 3)), np.zeros((1, 3)), np.ones((5, 3))]}
    path = gallery(rows, tmp_path / "odd.png", size=1)
    for column in range(5):
        assert tile(path, column).any()  # "empty" is written where nothing remains
    assert tile(gallery({"": [np.empty((0, 3))]}, tmp_path / "none.png", size=1), 0).any()


def test_single_cloud_and_strip(tmp_path):
    assert gallery({"one": sphere(100)}, tmp_path / "one.png").exists()
    assert imread(gallery({"strip": [sphere(60)] * 5}, tmp_path / "strip.png", size=0.5)).shape[0] == 50


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({}, {}, "at least one cloud, got none"),
        ({"a": np.zeros((2, 5, 2))}, {}, r"row 'a' must be \(N, 3\), got \(5, 2\)"),
        ({"a": np.zeros(4)}, {}, r"row 'a' must be .*, got \(4,\)"),
        ({"a": np.zeros((1, 5, 3))}, {"up": "w"}, "got 'w'"),
        ({"a": np.zeros((1, 5, 3))}, {"columns": 0}, "must be positive, got 0"),
    ],
)
def test_mistakes(tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message):
        gallery(rows, tmp_path / "no.png", **options)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = gallery({"a": sphere(20)}, tmp_path / "g.png")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        gallery({"b": sphere(30)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["g.png"]


def test_no_global_matplotlib_state(tmp_path):
    import sys

    gallery({"a": sphere(20)}, tmp_path / "g.png")
    curves([{"step": 0, "train/total": 1.0}], tmp_path / "c.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_curves_panels():
    nan = float("nan")
    history = [
        {"step": 10, "epoch": 1, "train/total": 3.0, "val/total": nan, "evaluations/points": 14, "seconds": 0.5},
        {"step": 20, "epoch": 1, "train/total": 2.0, "val/total": 4.0, "train/loss/points": float("inf")},
        {"epoch": 2, "train/total": 1.0},
    ]
    panels = _panels(history)
    assert list(panels) == ["total", "evaluations"]  # seconds are no quantity but another axis
    assert [list(v) for v in panels.values()] == [["train", "val"], ["points"]]
    np.testing.assert_array_equal(panels["total"]["train"], ([10, 20], [3, 2]))
    np.testing.assert_array_equal(panels["total"]["val"], ([20], [4]))


def test_curves_write_a_picture(tmp_path):
    history = [{"epoch": i, "train/total": 10.0**-i, "val/total": -1.0} for i in range(5)]
    history += [{"note/x": float("nan")}]
    assert imread(curves(history, tmp_path / "c.png")).shape[2] == 4
    with pytest.raises(ValueError, match="no finite quantity"):
        curves([{"step": 1.0}], tmp_path / "none.png")


# segmented clouds


def test_a_stray_does_not_shrink_the_picture(tmp_path):
    points = np.random.default_rng(0).normal([5e5, 5e6, 0], size=(500, 3))
    labels = np.arange(500) % 3
    alone = instance_picture(tmp_path / "a.png", points, {"found": labels}, size=1.0)
    stray = instance_picture(
        tmp_path / "b.png", np.insert(points, 7, 0.0, axis=0), {"found": np.insert(labels, 7, 2)}, size=1.0
    )
    assert alone.read_bytes() == stray.read_bytes()


def test_instance_pictures_have_the_colours_of_their_labels(tmp_path):
    points = np.random.default_rng(0).normal(size=(2000, 3))
    points[0] = np.nan
    labels = np.where(points[:, 0] > 0, 1, 0)
    path = instance_picture(tmp_path / "a.png", points, {"truth": labels, "nothing": np.zeros(2000, int)}, size=2.0)
    image = imread(path)[..., :3]
    assert image.shape[1] == 2 * 200

    def reddish(part):
        return (part[..., 0] - part[..., 2] > 0.2).mean()

    assert reddish(image[:, :200]) > 0.05 and reddish(image[:, 200:]) == 0


def test_background_before_an_instance_is_left_out(tmp_path):
    floor, ceiling = np.random.default_rng(0).uniform(-1, 1, (2, 4000, 3)) * [1, 1, 0] + [[[0, 0, -1]], [[0, 0, 1]]]
    thing = np.random.default_rng(1).uniform(-0.4, 0.4, (500, 3))
    points = np.concatenate([floor, ceiling, thing])
    labels = np.repeat([0, 0, 1], [4000, 4000, 500])
    path = instance_picture(tmp_path / "a.png", points, {"found": labels}, view=(90.0, 0.0), size=2.0)
    image = imread(path)[..., :3]
    assert (image[..., 0] - image[..., 2] > 0.2).mean() > 0.035


def test_instance_colours_are_the_same_everywhere():
    labels = np.arange(-1, 40)
    colours = instance_colours(labels)
    assert np.array_equal(colours[::-1], instance_colours(labels[::-1]))
    assert len(np.unique(colours.round(6), axis=0)) == len(labels) and (colours >= 0).all() and (colours <= 1).all()


def test_labels_must_fit_the_points(tmp_path):
    with pytest.raises(ValueError, match=r"labelling 'truth' must be \(3,\)"):
        instance_picture(tmp_path / "a.png", np.eye(3), {"truth": [1, 2]})
