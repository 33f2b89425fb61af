"""Scores of instance segmentation: the published numbers, each rule by hand, and a slow literal evaluator."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcgen.metrics.segmentation import instance_coverage, panoptic_quality, scannet_ap, transfer_labels, transfer_masks

NAN = float("nan")


def one(gt, masks, scores, labels=None, **options):
    """The scores of a single scene of class 1."""
    labels = np.ones(len(scores), int) if labels is None else labels
    return scannet_ap([np.asarray(gt)], [masks], [labels], [scores], **{"classes": [1], **options})


def runs(*pairs):
    """Labels from (label, number of points) pairs."""
    return np.repeat([label for label, _ in pairs], [count for _, count in pairs])


# The published numbers


def test_scannet_reference(reference):
    expected = json.loads(reference("scannet_ap_small.json").read_text())
    data = np.load(reference("scannet_ap_small.npz"), allow_pickle=False)
    gts = [data[f"gt_{i}"] for i in range(4)]
    masks = [np.unpackbits(data[f"pred_mask_{i}"], axis=1, count=len(gts[i])).astype(bool) for i in range(4)]
    labels = [data[f"pred_label_{i}"] for i in range(4)]
    scores = [data[f"pred_score_{i}"] for i in range(4)]
    found = scannet_ap(gts, masks, labels, scores, classes=[1, 2, 3, 4])
    rows = {f"class{c}": row for c, row in found.per_class.items()}
    for name, key, mean_key in [
        ("ap", "ap", "all_ap"),
        ("ap50", "ap50%", "all_ap_50%"),
        ("ap25", "ap25%", "all_ap_25%"),
        ("recall", "rc", "all_rc"),
        ("recall50", "rc50%", "all_rc_50%"),
        ("recall25", "rc25%", "all_rc_25%"),
    ]:
        assert getattr(found, name) == pytest.approx(expected[mean_key], abs=1e-12)
        for row in rows:
            assert getattr(rows[row], name) == pytest.approx(expected["classes"][row][key], abs=1e-12)
    packed = np.concatenate([np.unique(gt, return_counts=True)[1][np.unique(gt) // 1000 == 2] for gt in gts])
    assert (found.per_class[2].counted, found.per_class[2].ignored) == ((packed >= 100).sum(), (packed < 100).sum())
    # In every form that the arguments may have.
    sparse = [[np.flatnonzero(mask) for mask in scene] for scene in masks]
    tensors = [torch.tensor(mask) for mask in masks]
    split = {
        "instances": [np.where(gt > 0, gt % 1000, 0) for gt in gts],
        "semantics": [torch.tensor(gt // 1000) for gt in gts],
    }
    for form in (sparse, tensors, [list(mask) for mask in masks], [mask.astype(np.uint8) for mask in masks]):
        assert scannet_ap(gts, form, labels, scores, classes=(1, 2, 3, 4)) == found
    assert scannet_ap(None, masks, labels, scores, classes=range(1, 5), **split) == found


# The rules, one by one


@pytest.mark.parametrize("part, size, threshold", [(50, 100, 0.5), (110, 200, 0.55), (180, 200, 0.9), (190, 200, 0.95)])
def test_iou_at_a_threshold_is_no_match(part, size, threshold):
    gt = runs((1001, size), (0, 10))
    at = one(gt, [range(part)], [0.5], min_points=1, thresholds=[threshold])
    above = one(gt, [range(part + 1)], [0.5], min_points=1, thresholds=[threshold])
    assert (at.ap, above.ap) == (0.0, 1.0)


def test_thresholds_to_the_letter():
    gt = runs((1001, 1000))
    for points, nine, ten in [
        (1000, 9, 10),
        (951, 9, 10),
        (950, 9, 9),
        (901, 9, 9),
        (900, 8, 8),
        (501, 1, 1),
        (500, 0, 0),
    ]:
        assert one(gt, [range(points)], [0.5]).ap == pytest.approx(nine / 9)
        assert one(gt, [range(points)], [0.5], thresholds="coco").ap == pytest.approx(ten / 10)
    assert one(gt, [range(251)], [0.5]).ap25 == 1 and one(gt, [range(250)], [0.5]).ap25 == 0
    assert one(gt, [range(9)], [0.5]).thresholds == pytest.approx(np.arange(0.5, 0.95, 0.05))
    assert one(gt, [range(9)], [0.5], thresholds="coco").thresholds[-1] == 0.95


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.9])
def test_void_share_must_exceed_the_threshold(threshold):
    # The true one has the lower score: a false one before it takes AP from 1 to 1/4.
    gt = runs((1001, 200), (2001, 200), (0, 200))
    for extra, ap in [(-1, 0.25), (0, 0.25), (1, 1.0)]:
        void = round(threshold * 200) + extra
        other = [*range(200, 400 - void), *range(400, 400 + void)]  # 200 points
        found = one(gt, [range(200), other], [0.1, 0.9], classes=[1, 2], thresholds=[threshold])
        assert found.per_class[1].ap == ap
        negative = one(
            gt, [range(200), other], [0.1, 0.9], classes=[1, 2], thresholds=[threshold], background="negative"
        )
        assert negative.per_class[1].ap == 0.25


def test_classes_that_are_not_evaluated_are_void():
    gt = runs((1001, 200), (2001, 200))
    predicted = [range(200), range(200, 400)]
    assert one(gt, predicted, [0.1, 0.9], classes=[1]).ap50 == 1.0
    assert one(gt, predicted, [0.1, 0.9], classes=[1, 2]).per_class[1].ap50 == 0.25
    assert one(gt, predicted, [0.1, 0.9], classes=[1], background="negative").ap50 == 0.25


def test_unannotated_points_are_void_in_both_modes():
    for outside, ap in [(0, 0.25), (-1, 1.0)]:
        gt = runs((1001, 200), (outside, 200))
        assert one(gt, [range(200), range(200, 400)], [0.1, 0.9], background="negative").ap == ap
        assert one(gt, [range(200), range(200, 400)], [0.1, 0.9]).ap == 1.0
        split = {"instances": [np.where(gt > 0, 1, gt)], "semantics": [np.where(gt > 0, 1, 7)]}
        masks, labels, scores = [[range(200), range(200, 400)]], [[1, 1]], [[0.1, 0.9]]
        assert scannet_ap(None, masks, labels, scores, classes=[1], background="negative", **split).ap == ap
        unknown_class = {"instances": [np.where(gt > 0, 1, 0)], "semantics": [np.where(gt > 0, 1, outside)]}
        assert scannet_ap(None, masks, labels, scores, classes=[1], background="negative", **unknown_class).ap == ap


@pytest.mark.parametrize("size, counted, ap", [(99, 0, NAN), (100, 1, 1.0), (101, 1, 1.0)])
def test_small_instances_are_ignored(size, counted, ap):
    found = one(runs((1001, size), (0, 200)), [range(size + 1)], [0.5])
    np.testing.assert_equal((found.ap50, found.counted, found.ignored), (ap, counted, 1 - counted))


@pytest.mark.parametrize("size, used", [(99, 0), (100, 1)])
def test_small_predictions_are_left_out(size, used):
    found = one(runs((1001, 120)), [range(size)], [0.5])
    assert (found.ap50, found.predictions, found.left_out) == (float(used), used, 1 - used)


def test_small_objects_excuse_as_void_does():
    # A prediction over a small instance of its class is neither true nor false, if that is all there is of it.
    gt = runs((1001, 200), (1002, 60), (2001, 200))
    for small, ap in [(50, 0.25), (51, 1.0)]:
        false = [*range(200, 200 + small), *range(260, 360 - small)]
        found = one(gt, [range(200), false], [0.1, 0.9], classes=[1, 2], thresholds=[0.5])
        assert found.per_class[1].ap == ap
    # One that matches the small instance is forgotten whatever its share.
    gt = runs((1001, 200), (1002, 99), (2001, 200))
    found = one(gt, [range(200), range(200, 350)], [0.1, 0.9], classes=[1, 2])
    assert found.per_class[1].ap50 == 1.0  # IoU 99/150, excused share as much


def test_second_match_keeps_the_higher_score():
    gt = runs((1001, 200), (0, 1))
    for scores in ([0.3, 0.9], [0.9, 0.3]):
        assert one(gt, [range(200), range(199)], scores, thresholds=[0.5]).ap == 1.0  # the false one comes last
    gt = runs((1001, 200), (1002, 200))
    double = [range(200), range(190), range(200, 400)]
    # Scores .9 true, .8 false, .7 true: precision 2/3 to recall 1, 1/2 at the middle, 1 to recall 1/2.
    assert one(gt, double, [0.8, 0.9, 0.7], thresholds=[0.5]).ap == pytest.approx(2 / 3 * 1 / 4 + 1 / 2 * 1 / 4 + 1 / 2)


def test_a_prediction_matches_one_instance_only():
    # IoU 1/2 with both at a threshold of 1/4; the first instance takes it, the second one is missed.
    gt = runs((1001, 100), (1002, 100))
    assert one(gt, [range(200)], [0.5]).ap25 == 0.5
    # The prediction booked as a duplicate stays free for another instance, to the letter.
    both = one(gt, [range(110), range(200)], [0.9, 0.8])
    assert both.recall25 == 1.0


def test_equal_scores_are_accepted_together():
    gt = runs((1001, 200), (2001, 200))
    predicted, options = [range(200), range(200, 400)], {"classes": [1, 2], "thresholds": [0.5]}
    for order in ([0, 1], [1, 0]):
        found = one(gt, [predicted[i] for i in order], [0.5, 0.5], **options)
        assert found.per_class[1].ap == 0.75  # half the recall at precision 1/2, half at the artificial last point
    assert one(gt, predicted, [0.4, 0.5], **options).per_class[1].ap == 0.25
    assert one(gt, predicted, [0.5, 0.4], **options).per_class[1].ap == 1.0


def test_class_without_truth_is_nan_and_without_predictions_zero():
    gt = runs((1001, 200), (2001, 200))
    found = one(gt, [range(200), range(200, 400)], [0.5, 0.5], [1, 3], classes=[1, 2, 3])
    assert [row.ap for row in found.per_class.values()] == pytest.approx([1.0, 0.0, NAN], nan_ok=True)
    assert (found.ap, found.ap50, found.ap25, found.recall) == (0.5, 0.5, 0.5, 0.5)
    nothing = one([0] * 300, [range(200)], [0.5])
    assert np.isnan([nothing.ap, nothing.ap50, nothing.ap25]).all() and nothing.counted == 0
    for masks in ([], np.zeros((0, 400), bool), np.zeros(400, int)):
        assert one(gt, masks, []).ap == 0.0


def test_all_predictions_excused_is_zero():
    assert one(runs((1001, 200), (0, 300)), [range(200, 500)], [0.5]).ap == 0.0


def test_precision_and_recall_end_points():
    # Three instances, two found at .9 and .5: recall 2/3, 1/3, 0; the first point weighs half a step.
    gt = runs((1001, 100), (1002, 100), (1003, 100), (1004, 100))
    found = one(gt[:300], [range(100), range(100, 200)], [0.9, 0.5])
    assert found.ap == pytest.approx((2 / 3 - 1 / 3) / 2 + 2 / 3 / 2 + 1 / 3 / 2)
    assert found.recall == pytest.approx(2 / 3)


def test_scenes_are_pooled_not_averaged():
    gts = [runs((1001, 200), (2001, 200))] * 2
    masks = [[range(200), range(200, 400)], [range(200)]]
    found = scannet_ap(gts, masks, [[1, 1], [1]], [[0.9, 0.6], [0.3]], classes=[1, 2])
    # In order of the scores: true, false, true.
    assert found.per_class[1].ap == pytest.approx(2 / 3 * 1 / 4 + 1 / 2 * 1 / 4 + 1 / 2)
    assert found.scenes == 2 and found.counted == 4 and found.predictions == 3


def test_class_agnostic():
    gt = runs((1001, 200), (2001, 200), (0, 100))
    found = one(gt, [range(200), range(200, 400)], [0.5, 0.4], [7, 1], classes=None)
    assert found.ap == 1.0 and found.per_class == {} and found.counted == 2
    assert scannet_ap([gt], [[range(200)]], None, [[0.5]]).ap == 0.5
    assert scannet_ap([runs((5, 200), (0, 100))], [[range(200)]], None, [[0.5]]).ap == 1.0


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, lambda x: np.asarray(x).tolist()])
def test_one_scene_alone_needs_no_list(form):
    gt, masks = runs((1001, 200), (1002, 200), (0, 100)), np.zeros((2, 500), bool)
    masks[0, :200] = masks[1, 200:380] = True
    truth, predicted = {"gts": gt}, {"masks": masks, "labels": np.array([1, 1])}
    split = {"instances": gt % 1000, "semantics": gt // 1000}
    for function, more in [
        (scannet_ap, {"scores": np.array([0.5, 0.4])}),
        (panoptic_quality, {}),
        (instance_coverage, {}),
    ]:
        for labels in (truth, split):
            arguments = {**labels, **predicted, **more}
            expected = function(**{name: [x] for name, x in arguments.items()}, classes=[1])
            assert function(**{name: form(x) for name, x in arguments.items()}, classes=[1]) == expected


def test_many_instances_need_two_arrays():
    numbers = np.repeat(np.arange(1, 1217), 2)
    masks = [np.arange(len(numbers)).reshape(-1, 2)]
    masks = [list(masks[0])]
    scores = [np.linspace(0, 1, 1216)]
    found = scannet_ap(instances=[numbers], masks=masks, scores=scores, min_points=1)
    assert found.ap == 1.0 and found.counted == 1216
    for packed, classes in [(numbers, None), (1000 + numbers, None), (1000 + numbers, [1]), (3000 + numbers, [3, 4])]:
        with pytest.raises(ValueError, match="instances="):
            scannet_ap([packed], masks, [np.ones(1216, int)], scores, classes=classes, min_points=1)


def test_a_map_of_numbers_is_the_same():
    gt = runs((1001, 200), (0, 100), (1002, 300))
    number = runs((1, 150), (0, 50), (2, 100), (4, 300))
    masks = [np.flatnonzero(number == k) for k in (1, 2, 3, 4)]
    for classes in ([1], None):
        left = one(gt, number, [0.125, 0.5, 0.75, 0.25], classes=classes)
        assert left == one(gt, masks, [0.125, 0.5, 0.75, 0.25], classes=classes)
        scores = torch.tensor([0.125, 0.5, 0.75, 0.25], dtype=torch.bfloat16)
        assert left == one(gt, torch.tensor(number), scores, classes=classes)
    assert panoptic_quality([gt], [number], [[1] * 4], classes=[1]) == panoptic_quality(
        [gt], [masks], [[1] * 4], classes=[1]
    )


def test_empty_scenes():
    empty = np.zeros(0, int)
    for masks in ([], np.zeros((0, 0), bool), [[], []]):
        scores = [0.5] * len(masks)
        assert np.isnan(one(empty, masks, scores).ap)
    found = scannet_ap([empty, runs((1001, 100))], [[], [range(100)]], [[], [1]], [[], [0.5]], classes=[1])
    assert found.ap == 1.0


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"gts": None}, ValueError, "neither"),
        ({"instances": [np.zeros(200, int)]}, ValueError, "both"),
        ({"semantics": [np.zeros(200, int)]}, ValueError, "semantics="),
        ({"gts": None, "instances": [np.zeros(200, int)]}, ValueError, "semantics must be given"),
        ({"gts": [np.zeros(200)]}, TypeError, "gts.0. must be an array of integers, got float64"),
        ({"gts": [np.zeros((200, 1), int)]}, ValueError, r"got \(200, 1\)"),
        ({"gts": []}, ValueError, "at least one scene"),
        ({"masks": None}, ValueError, "masks and scores"),
        ({"masks": []}, ValueError, "got 0 and 1"),
        ({"labels": None}, ValueError, "labels must be given"),
        ({"labels": [[1, 1]]}, ValueError, "1 predictions and 2 labels"),
        ({"labels": [[1.0]]}, TypeError, "integers"),
        ({"scores": [[0.1, 0.2]]}, ValueError, "1 and 2 predictions"),
        ({"scores": [[NAN]]}, ValueError, "finite"),
        ({"scores": [[[0.1]]]}, ValueError, "shape"),
        ({"masks": [[np.ones(199, bool)]]}, ValueError, "200 points"),
        ({"masks": [np.ones((1, 199), bool)]}, ValueError, "200 points"),
        ({"masks": [np.ones((1, 200))]}, TypeError, "float64"),
        ({"masks": [[[0, 200]]]}, ValueError, "0 … 199"),
        ({"masks": [[[-1, 3]]]}, ValueError, "got -1"),
        ({"masks": [[[3, 3]]]}, ValueError, "once"),
        ({"masks": [np.full(200, 2)]}, ValueError, "up to 1"),
        ({"classes": [1, 1]}, ValueError, "distinct"),
        ({"classes": []}, ValueError, "at least one"),
        ({"classes": [0, 1]}, ValueError, "0"),
        ({"classes": ["chair"]}, TypeError, "integers"),
        ({"min_points": 0}, ValueError, "min_points"),
        ({"background": "stuff"}, ValueError, "void, negative"),
        ({"thresholds": "pascal"}, ValueError, "scannet, coco"),
        ({"thresholds": [1.0]}, ValueError, r"\[0, 1\)"),
        ({"thresholds": []}, ValueError, "at least one"),
    ],
)
def test_mistakes_are_named(change, error, words):
    right = {
        "gts": [runs((1001, 200))],
        "masks": [[range(200)]],
        "labels": [[1]],
        "scores": [[0.5]],
        "classes": [1],
    }
    assert scannet_ap(**right).ap == 1.0
    with pytest.raises(error, match=words) as caught:
        scannet_ap(**{**right, **change})
    assert "\n" not in str(caught.value)


# A literal evaluator, slow


def literal_ap(scenes, classes, min_points, background, threshold):
    """Sets and dictionaries, rule by rule; scenes of (gt, masks, labels, scores); {class: AP}."""
    found = {}
    for c in classes:
        booked, missed, any_truth, any_prediction, used = [], 0, False, False, set()
        for s, (gt, masks, labels, scores) in enumerate(scenes):
            things = {}
            for i, key in enumerate(gt.tolist()):
                if key > 0 and key // 1000 in classes:
                    things.setdefault(key, set()).add(i)
            in_things = set().union(*things.values())
            void = {i for i in range(len(gt)) if i not in in_things and (background == "void" or gt[i] < 0)}
            truth = {key: points for key, points in sorted(things.items()) if key // 1000 == c}
            predictions = []
            for p, mask in enumerate(masks):
                points = set(np.flatnonzero(mask).tolist())
                if labels[p] == c and len(points) >= min_points:
                    predictions.append((p, points, scores[p]))
            any_prediction |= bool(predictions)
            for points in truth.values():
                if len(points) < min_points:
                    continue
                any_truth, best = True, None
                for p, mask, score in predictions:
                    if (s, p) in used or not len(points & mask) / len(points | mask) > threshold:
                        continue
                    if best is None:
                        best = score
                        used.add((s, p))
                    else:
                        booked.append((min(best, score), False))
                        best = max(best, score)
                if best is None:
                    missed += 1
                else:
                    booked.append((best, True))
            for _, mask, score in predictions:
                if any(len(points & mask) / len(points | mask) > threshold for points in truth.values()):
                    continue
                excused = len(mask & void) + sum(len(q & mask) for q in truth.values() if len(q) < min_points)
                if excused / len(mask) <= threshold:
                    booked.append((score, False))
        if not any_truth:
            found[c] = NAN
        elif not any_prediction:
            found[c] = 0.0
        else:
            curve = []
            for score in sorted({score for score, _ in booked}):
                kept = [true for other, true in booked if other >= score]
                curve.append((sum(kept) / len(kept), sum(kept) / (missed + sum(true for _, true in booked))))
            curve.append((1.0, 0.0))
            recall = [curve[0][1]] + [r for _, r in curve] + [0.0]
            found[c] = sum(p * (recall[i] - recall[i + 2]) / 2 for i, (p, _) in enumerate(curve))
    return found


@st.composite
def labelled_scenes(draw):
    """Scenes of short runs of labels, with overlapping, shifted, duplicate predictions and tied scores."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scenes = []
    for _ in range(draw(st.integers(1, 3))):
        keys = [-1, 0, 1000, 1001, 1002, 1003, 2001, 2002, 3001, 4005]
        gt = rng.choice(keys, rng.integers(0, 12)).repeat(rng.integers(1, 9))
        P = int(rng.integers(0, 9))
        masks = np.zeros((P, len(gt)), bool)
        for mask in masks:
            if len(gt) and rng.random() < 0.8:  # a true instance, and some of its neighbours
                mask[gt == rng.choice(gt)] = True
                mask ^= rng.random(len(gt)) < rng.choice([0.0, 0.1, 0.3])
            else:
                mask[:] = rng.random(len(gt)) < 0.3
        scenes.append((gt, masks, rng.choice([1, 2, 3, 9], P), rng.choice([0.1, 0.5, 0.9], P)))
    return scenes


@given(labelled_scenes(), st.sampled_from([1, 2, 5, 9]), st.sampled_from(["void", "negative"]))
def test_equals_the_literal_evaluator(scenes, min_points, background):
    gts, masks, labels, scores = (list(column) for column in zip(*scenes))
    options = {"classes": [2, 1, 3], "min_points": min_points, "background": background}
    for threshold in (0.0, 0.25, 0.5, 0.6, 0.75):
        found = scannet_ap(gts, masks, labels, scores, thresholds=[threshold], **options)
        expected = literal_ap(scenes, options["classes"], min_points, background, threshold)
        assert {c: row.ap for c, row in found.per_class.items()} == pytest.approx(expected, abs=1e-12, nan_ok=True)
    known = [ap for ap in expected.values() if not np.isnan(ap)]
    assert found.ap == pytest.approx(np.mean(known) if known else NAN, abs=1e-12, nan_ok=True)


@given(labelled_scenes(), st.integers(0, 2**32 - 1))
def test_points_have_no_order(scenes, seed):
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(gt)) for gt, *_ in scenes]
    gts, masks, labels, scores = (list(column) for column in zip(*scenes))
    moved = [gt[o] for gt, o in zip(gts, orders)], [mask[:, o] for mask, o in zip(masks, orders)]
    for options in ({"classes": [1, 2, 3]}, {"classes": None}):
        left = scannet_ap(gts, masks, labels, scores, min_points=3, **options)
        right = scannet_ap(*moved, labels, scores, min_points=3, **options)
        np.testing.assert_equal(vars(left), vars(right))


@given(labelled_scenes())
def test_the_truth_scores_one(scenes):
    gts = [gt for gt, *_ in scenes]
    keys = [np.unique(gt[(gt > 0) & (gt < 4000)]) for gt in gts]
    masks = [[gt == key for key in scene] for gt, scene in zip(gts, keys)]
    labels = [scene // 1000 for scene in keys]
    arguments = {"classes": [1, 2, 3], "min_points": 1}
    found = scannet_ap(gts, masks, labels, [np.ones(len(scene)) for scene in keys], **arguments)
    quality = panoptic_quality(gts, masks, labels, **arguments)
    cover = instance_coverage(gts, masks, labels, **arguments)
    expected = 1.0 if sum(map(len, keys)) else NAN
    values = (
        found.ap,
        found.ap25,
        quality.pq,
        quality.sq,
        quality.rq,
        cover.mcov,
        cover.mwcov,
        cover.mprec,
        cover.mrec,
    )
    assert values == pytest.approx([expected] * 9, nan_ok=True)


def test_memory_does_not_grow_with_the_predictions():
    N = 200_000
    numbers = np.repeat(np.arange(200), N // 200)
    masks = [np.arange(900 * p, 900 * p + 1000) for p in range(200)]
    tracemalloc.start()
    found = scannet_ap(instances=[numbers], masks=[masks], scores=[np.arange(200.0)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.predictions == 200 and peak < 60 * N


# Panoptic quality and coverage


def literal_panoptic(scenes, c, min_points):
    """IoU sum, TP, FP and FN of class ``c``, void being what is negative."""
    total, tp, fp, fn = 0.0, 0, 0, 0
    for gt, masks, labels in scenes:
        void = set(np.flatnonzero(gt < 0).tolist())
        truth = [set(np.flatnonzero(gt == key).tolist()) for key in np.unique(gt) if key // 1000 == c]
        hit = set()
        for mask, label in zip(masks, labels):
            points = set(np.flatnonzero(mask).tolist())
            if label != c or not points:
                continue
            ious = [len(points & t) / len((points - void) | t) for t in truth]
            matches = [i for i, iou in enumerate(ious) if iou > 0.5]
            assert len(matches) <= 1
            hit.update(matches)
            total, tp = total + sum(ious[i] for i in matches), tp + len(matches)
            fp += not matches and len(points) >= min_points and len(points & void) / len(points) <= 0.5
        fn += sum(len(t) >= min_points for i, t in enumerate(truth) if i not in hit)
    return total, tp, fp, fn


def apart(masks):
    """Each point with the first prediction that has it."""
    return masks & (np.cumsum(masks, 0) == 1)


@given(labelled_scenes(), st.sampled_from([1, 2, 5]))
def test_panoptic_quality_is_its_definition(scenes, min_points):
    scenes = [(gt, apart(masks), labels) for gt, masks, labels, _ in scenes]
    found = panoptic_quality(*map(list, zip(*scenes)), classes=[1, 2, 3], min_points=min_points)
    for c, row in found.per_class.items():
        total, *counts = literal_panoptic(scenes, c, min_points)
        assert [row.matched, row.false, row.missed] == counts
        if any(counts):
            tp, fp, fn = counts
            assert row.pq == pytest.approx(total / (tp + fp / 2 + fn / 2), abs=1e-12)
            assert row.pq == pytest.approx(row.sq * row.rq, abs=1e-12)
        else:
            assert np.isnan(row.pq)


def test_panoptic_match_is_strict():
    gt = runs((1001, 100), (0, 100))
    for points, matched in [(50, 0), (51, 1)]:
        found = panoptic_quality([gt], [[range(points)]], [[1]], classes=[1])
        assert (found.matched, found.false, found.missed) == (matched, 1 - matched, 1 - matched)


def test_panoptic_void():
    for void, iou, false in [(-1, 1.0, 0), (0, 0.5, 1), (2001, 0.5, 1)]:
        gt = runs((1001, 100), (void, 100))
        found = panoptic_quality([gt], [[range(200)]], [[1]], classes=[1]).per_class[1]
        assert (found.false, found.matched) == (false, 1 - false) and found.sq == (iou if iou > 0.5 else 0)
        assert panoptic_quality([gt], [[range(200)]], [[1]], classes=[1], background="void").pq == 1.0
    # Nothing matched: forgotten if more than half of it is void.
    gt = runs((2001, 100), (-1, 100))
    for void, false in [(49, 1), (50, 1), (51, 0)]:
        found = panoptic_quality([gt], [[range(void, 100 + void)]], [[1]], classes=[1, 2])
        assert found.per_class[1].false == false


def test_panoptic_small_segments():
    gt = runs((1001, 20), (1002, 40), (0, 100))
    numbers = runs((1, 20), (0, 40), (2, 20), (3, 40), (0, 40))
    for min_points, counts in [(1, (1, 2, 1)), (30, (1, 1, 1)), (50, (1, 0, 0))]:  # a match counts whatever its size
        found = panoptic_quality([gt], [numbers], [[1] * 3], classes=[1], min_points=min_points)
        assert (found.matched, found.false, found.missed) == counts


def test_overlapping_segments_are_refused():
    arguments = [runs((1001, 10))], [[range(5), range(4, 10)]], [[1, 1]]
    with pytest.raises(ValueError, match="overlap, got 1 points"):
        panoptic_quality(*arguments, classes=[1])
    assert instance_coverage(*arguments, classes=[1]).mcov == 0.6


def test_coverage_by_hand():
    # Two rooms, one with one instance and one with three: a mean of the rooms' means, but pooled precision and recall.
    gts = [runs((1001, 100)), runs((1001, 10), (1002, 20), (1003, 30), (0, 10))]
    masks = [[range(80)], [range(5), range(5, 10), range(10, 30), range(60, 70)]]
    labels = [[1], [1, 1, 1, 1]]
    row = instance_coverage(gts, masks, labels, classes=[1, 2]).per_class[1]
    assert row.cov == pytest.approx((0.8 + (0.5 + 1 + 0) / 3) / 2)
    assert row.wcov == pytest.approx((0.8 + (0.5 * 10 + 1 * 20) / 60) / 2)
    assert row.precision == pytest.approx(4 / 5)  # an IoU of exactly 1/2 counts
    assert row.recall == pytest.approx(3 / 4)  # but an instance only once
    whole = instance_coverage(gts, masks, labels, classes=[1, 2])
    assert (whole.mcov, whole.mprec, whole.counted) == (row.cov, row.precision, 4)
    assert np.isnan(whole.per_class[2].cov)


def test_coverage_keeps_to_its_class_and_size():
    gt = runs((1001, 100), (1002, 5), (-1, 50))
    wrong = instance_coverage([gt], [[range(100)]], [[2]], classes=[1, 2])
    assert wrong.per_class[1].cov == 0.0 and np.isnan(wrong.per_class[2].recall) and wrong.mprec == 0.0
    assert instance_coverage([gt], [[range(100)]], None).mcov == 0.5
    assert instance_coverage([gt], [[range(100)]], None, min_points=6).mcov == 1.0
    unannotated = [[*range(100), *range(105, 155)], [100]]
    assert instance_coverage([gt], [unannotated], None, min_points=2).counted == 2
    assert instance_coverage([gt], [unannotated], None, min_points=6).mwcov == 1.0
    assert np.isnan(instance_coverage([[0, 0]], [[[0]]], None).mcov)


# Another sampling


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_masks_follow_their_nearest_point(seed, M, N):
    rng = np.random.default_rng(seed)
    source, target = rng.integers(0, 5, (M, 3)).astype(float), rng.random((N, 3)) * 4
    masks = rng.random((4, M)) < 0.4
    squares = np.square(target[:, None] - source[None]).sum(-1)
    nearest, least = squares.argmin(1), np.sqrt(squares.min(1))
    for limit in (None, 0.8):
        near = least <= (np.inf if limit is None else limit)
        found = transfer_masks(masks, source, torch.tensor(target), limit)
        for mask, points in zip(masks, found):
            np.testing.assert_array_equal(points, np.flatnonzero(mask[nearest] & near))
        sparse = transfer_masks([np.flatnonzero(mask)[::-1] for mask in masks], source, target, limit)
        assert all(map(np.array_equal, sparse, found))
        labels = rng.integers(-1, 9, M)
        np.testing.assert_array_equal(
            transfer_labels(labels, source, target, limit, fill=-7), np.where(near, labels[nearest], -7)
        )


def test_a_thinned_scan_is_scored_on_the_whole_one():
    rng = np.random.default_rng(0)
    whole = np.concatenate([rng.normal(size=(500, 3)) + 20 * k for k in range(3)])
    whole += np.array([5e6, 4e5, 0.0])  # as in UTM
    gt = np.repeat([1, 2, 0], 500)
    thin = rng.permutation(1500)[:300]
    masks = transfer_masks([gt[thin] == 1, gt[thin] == 2], whole[thin], whole)
    assert scannet_ap(instances=[gt], masks=[masks], scores=[[0.5, 0.4]]).ap == 1.0
    number = transfer_labels(gt[thin], whole[thin], whole)
    assert scannet_ap(instances=[gt], masks=[number], scores=[[0.5, 0.4]]).ap == 1.0


def test_transfer_mistakes():
    points = np.zeros((3, 3))
    with pytest.raises(ValueError, match="3 source points"):
        transfer_labels([1, 2], points, points)
    with pytest.raises(ValueError, match="3 points"):
        transfer_masks([np.ones(4, bool)], points, points)
    for source, target in [(points[:0], points), (points, points[:, :2]), (points[0], points)]:
        with pytest.raises(ValueError, match="source must be"):
            transfer_labels([1, 2, 3][: len(source)], source, target)
    assert transfer_labels([1, 2, 3], points, points[:0]).tolist() == []
    assert transfer_labels(np.uint8([4]), [[0.0]], [[9.0]], max_distance=1.0, fill=-1).tolist() == [-1]
    assert [mask.tolist() for mask in transfer_masks([[0]], points, points[:0])] == [[]]
    with pytest.raises(ValueError, match="max_distance"):
        transfer_masks([], points, points, max_distance=-1.0)
    with pytest.raises(ValueError, match="NaN"):
        transfer_masks([], points, points * NAN)
