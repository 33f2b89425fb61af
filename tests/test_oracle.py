"""The oracle: exact answers on scenes whose stars are known, and laws that any scene obeys."""

import json
from typing import get_args

import numpy as np
import pytest
import torch

from pcgen.cli import main, oracle
from pcgen.data.scenes import make_scene, write_scene
from pcgen.geometry import rays
from pcgen.geometry.stars import Assembly
from pcgen.models.oracle import TARGETS, OracleTarget, encode_and_decode, oracle_scores


def spheres(count=3, points=400, gap=3.0, background=500, seed=0):
    """Unit spheres in a row, points all over them, above a floor that none touches."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, points, 3, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=-1, keepdim=True)
    x[..., 0] += gap * torch.arange(count)[:, None]
    floor = torch.rand(background, 3, generator=generator, dtype=torch.float64) * 10 - 5
    floor[:, 2] = -2.0
    instance = torch.arange(1, count + 1).repeat_interleave(points)
    return torch.cat([x.reshape(-1, 3), floor]), torch.cat([instance, instance.new_zeros(background)])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["icosphere-42", "lat-lon-5x5", "fibonacci-96"])
def test_separate_spheres_come_back_whole(name, target):
    points, instance = spheres()
    found = encode_and_decode(rays(name), points, instance, target=target)
    assert found.points.tolist() == [400] * 3
    least = {"quantile": 0.7, "hull": 0.0}.get(target, 1.0)  # quantiles cut, and spheres bulge from their hulls
    assert (found.iou >= least).all()
    scores = oracle_scores([found], rays(name), target, "nearest")
    if least == 1.0:
        assert scores.mean_iou == scores.ap.ap == 1 and scores.above == (1, 1, 1) and scores.ap.counted == 3


def test_optimal_targets_are_never_worse():
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(3000, 3, generator=generator, dtype=torch.float64)
    instance = (points[:, 0] * 5).long()  # slabs that touch
    for name in ("icosphere-12", "fibonacci-20"):
        best = encode_and_decode(rays(name), points, instance, target="optimal").iou
        for target in TARGETS:
            assert (encode_and_decode(rays(name), points, instance, target=target).iou <= best + 1e-12).all()


def test_masks_are_the_points_in_the_star():
    points, instance = spheres(2, 300, gap=1.0)
    found = encode_and_decode(rays("icosphere-42"), points, instance, target="furthest")
    for k, mask in enumerate(found.masks, 1):
        own, held = set((instance == k).nonzero()[:, 0].tolist()), set(mask.tolist())
        assert own <= held  # the furthest point of each cell
        assert float(found.iou[k - 1]) == len(own & held) / len(own | held) < 1


def test_what_nobody_annotated_counts_nowhere():
    points, instance = spheres(2, 300, gap=1.0)
    whole = encode_and_decode(rays("icosphere-42"), points, instance)
    more = torch.cat([points, points + 0.01]), torch.cat([instance, torch.full_like(instance, -1)])
    again = encode_and_decode(rays("icosphere-42"), *more)
    assert torch.equal(whole.iou, again.iou)
    assert all(np.array_equal(a, b) for a, b in zip(whole.masks, again.masks))


def test_classes():
    points, instance = spheres(3)
    semantic = torch.where(instance == 3, 7, torch.where(instance > 0, 4, 0))
    semantic[0] = 7  # one stray label
    found = encode_and_decode(rays("icosphere-42"), points, instance, semantic)
    assert found.semantic.tolist() == [4, 4, 7]
    scores = oracle_scores([found, found], rays("icosphere-42"), "optimal", "nearest")
    assert {label: s.instances for label, s in scores.per_class.items()} == {4: 4, 7: 2}
    assert all(s.ap.ap == 1 and s.mean_iou == 1 for s in scores.per_class.values())


def test_an_instance_of_an_unknown_class_counts_in_the_whole():
    points, instance = spheres(3)
    semantic = torch.where(instance == 1, -1, 4)
    scores = oracle_scores(
        [encode_and_decode(rays("icosphere-42"), points, instance, semantic)],
        rays("icosphere-42"),
        "optimal",
        "nearest",
    )
    assert scores.instances == scores.ap.counted == 3 and scores.ap.ap == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_labels_of_any_type(dtype):
    points, instance = spheres(2)
    whole = encode_and_decode(rays("icosphere-42"), points, instance, instance)
    again = encode_and_decode(rays("icosphere-42"), points, instance.to(dtype), instance.to(dtype))
    assert torch.equal(whole.iou, again.iou) and torch.equal(whole.semantic, again.semantic)


def test_no_scene():
    with pytest.raises(ValueError, match="at least one scene"):
        oracle_scores([], rays("icosphere-42"), "optimal", "nearest")


def test_an_instance_without_points_is_left_out():
    points, instance = spheres(3)
    instance[instance == 2] = 0
    scores = oracle_scores(
        [encode_and_decode(rays("icosphere-42"), points, instance)], rays("icosphere-42"), "optimal", "nearest"
    )
    assert scores.instances == scores.ap.counted == 2


@pytest.mark.parametrize("instance", [torch.zeros(4, dtype=torch.int64), torch.full((4,), -1)])
def test_no_instances(instance):
    with pytest.raises(ValueError, match="needs a scene with instances"):
        encode_and_decode(rays("icosphere-42"), torch.zeros(4, 3), instance)


def test_unknown_target():
    with pytest.raises(ValueError, match=r"target must be one of furthest.*got 'best'"):
        encode_and_decode(rays("icosphere-42"), *spheres(1), target="best")


# the command


def test_choices_are_those_of_the_model():
    assert oracle.TARGETS == tuple(TARGETS) == get_args(OracleTarget) and get_args(Assembly) == oracle.ASSEMBLIES


def test_command(tmp_path, capsys):
    points, instance = spheres()
    semantic = np.where(instance > 0, 2, 0)
    semantic[instance == 3] = 5
    scene = make_scene(points.numpy(), semantic=semantic, instance=instance.numpy())
    write_scene(tmp_path / "a.npz", scene)
    options = ["--rays", "icosphere-42", "lat-lon-5x5", "--target", "furthest", "optimal", "--per-class"]
    assert main(["oracle", str(tmp_path), *options, "--json", str(tmp_path / "new" / "out.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 * 3 + 1 and "100.0" in lines[1] and lines[2].endswith("class 2")
    found = json.loads((tmp_path / "new" / "out.json").read_text())
    assert [row["rays"] for row in found] == ["icosphere-42"] * 2 + ["lat-lon-5x5"] * 2
    assert all(row["mean_iou"] == 1 and row["ap"]["counted"] == 3 for row in found)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (False, [], "label"),
        (True, ["--rays", "icosphere-43"], "one of 12, 42"),
        (True, ["--rays", "icosphere-42", "circle-36"], "directions in space for scenes, got circle-36"),
        (True, ["--target", "optimum"], "the nearest is 'optimal'"),
    ],
)
def test_mistakes(tmp_path, capsys, labels, options, message):
    scene = make_scene(np.eye(3), instance=[1, 1, 2] if labels else None)
    write_scene(tmp_path / "a.npz", scene)
    assert main(["oracle", str(tmp_path / "a.npz"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_dropped_points_are_told(tmp_path, capsys):
    points = np.concatenate([np.eye(3), [[np.nan, 0, 0]]])
    np.savez(tmp_path / "a.npz", points=points, instance=[1, 1, 2, 2])
    assert main(["oracle", str(tmp_path / "a.npz"), "--quiet"]) == 0
    assert "a.npz: 1 of 4 points dropped" in capsys.readouterr().out
