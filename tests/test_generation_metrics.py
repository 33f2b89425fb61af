"""Generation and reconstruction scores: limits, laws, and the numbers of the published programs."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcgen import metrics, ops
from pcgen.metrics import occupancy, sets
from pcgen.metrics.blocks import Side, distance_matrix

REFERENCE = Path(__file__).parents[1].parent / "shared" / "reference"
seeds = st.integers(0, 2**31 - 1)
quick = settings(deadline=None, max_examples=15)
# A handful of clouds reaches beyond the ball that a handful of others fills.
outside_is_fine = pytest.mark.filterwarnings("ignore:.*outside the JSD grid's ball")
copies_are_fine = pytest.mark.filterwarnings("ignore:.* clouds of samples are among references")


def clouds(seed, count, points=20):
    """Clouds in the ball of radius 1/2, each about a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 1, 3, generator=generator, dtype=torch.float64) * 0.4 - 0.2
    return centres + torch.rand(count, points, 3, generator=generator, dtype=torch.float64) * 0.1 - 0.05


def evaluate(*arguments, **options):
    """Without intervals, which have their own tests."""
    return metrics.evaluate(*arguments, interval=0, **options)


@pytest.fixture(scope="module")
def small():
    if not (REFERENCE / "metrics_small.json").is_file():
        pytest.skip(f"no reference values: {REFERENCE / 'metrics_small.json'} is absent")
    with np.load(REFERENCE / "metrics_small.npz", allow_pickle=False) as file:
        return file["sample"], file["ref"], json.loads((REFERENCE / "metrics_small.json").read_text())


# the published values


def test_evaluate_has_the_published_values(small):
    sample, ref, published = small
    with pytest.warns(UserWarning, match="outside the JSD grid's ball"):
        found = evaluate(sample, ref, frame="as-is").scores()
    theirs = {"jsd": published["JSD"]}
    for d in ("CD", "EMD"):
        theirs |= {
            f"mmd_{d.lower()}": published[f"lgan_mmd-{d}"],
            f"mmd_{d.lower()}_samples": published[f"lgan_mmd_smp-{d}"],
            f"cov_{d.lower()}": published[f"lgan_cov-{d}"],
            f"one_nna_{d.lower()}": published[f"1-NN-{d}-acc"],
            f"one_nna_{d.lower()}_references": published[f"1-NN-{d}-acc_t"],
            f"one_nna_{d.lower()}_samples": published[f"1-NN-{d}-acc_f"],
        }
    assert found.keys() == theirs.keys()
    for name, value in theirs.items():
        assert found[name] == pytest.approx(value, abs=1e-7), name


def test_annealed_scores_need_the_reference_on_the_left(small):
    sample, ref = (Side.of(torch.from_numpy(side).double()) for side in small[:2])
    rs = distance_matrix("pointflow", ref, sample).value
    scores = metrics.distance_scores(torch.zeros(24, 24), rs, torch.zeros(24, 24))
    assert round(scores.mmd, 4) == 0.1121 and scores.cov == 15 / 24


@pytest.mark.parametrize("distance", ["cd", "exact", "pointflow", "pvd"])
def test_matrices_have_the_published_values(reference, distance):
    with np.load(reference("metrics_small.npz"), allow_pickle=False) as file:
        left, right = (Side.of(torch.from_numpy(file[side][:6]).double()) for side in ("sample", "ref"))
        published = file[{"cd": "cd", "pvd": "emd_squared"}.get(distance, f"emd_{distance}")]
    np.testing.assert_allclose(distance_matrix(distance, left, right).value.numpy(), published, rtol=1e-4)


@outside_is_fine
@copies_are_fine
@pytest.mark.filterwarnings("ignore:the pointflow EMD moves")
@pytest.mark.parametrize(("variant", "low", "high"), [("pointflow", 1e-4, 3.5e-4), ("pvd", 1.5e-6, 2.5e-6)])
def test_annealed_distances_of_a_cloud_from_itself(small, variant, low, high):
    ref = small[1][:3]
    same = evaluate(ref, ref.copy(), variant)
    assert low < same.emd.mmd < high and same.emd.cov == 1 and same.emd.one_nna == 0
    assert same.cd.mmd == same.jsd == 0
    far = evaluate(ref + 5, ref, variant)
    assert far.emd.one_nna == far.cd.one_nna == 1 and far.jsd == pytest.approx(1, abs=0.05)


def test_reconstruction_has_the_published_values(small):
    sample, ref, published = small
    found = metrics.reconstruction(sample, ref)
    assert found.cd == pytest.approx(published["recon"]["MMD-CD"], abs=1e-7)
    assert found.emd == pytest.approx(published["recon"]["MMD-EMD"], abs=1e-7)


# limits and laws


@copies_are_fine
@quick
@given(seeds, st.integers(2, 6))
def test_identical_sets(seed, count):
    X = clouds(seed, count)
    found = evaluate(X, X.clone()).scores()
    perfect = {"mmd": 0, "cov": 1, "one": 0, "jsd": 0}
    assert all(value == perfect[name.split("_")[0]] for name, value in found.items())


@quick
@given(seeds, st.integers(2, 5), st.integers(2, 5))
def test_far_sets(seed, s, r):
    with pytest.warns(UserWarning, match=r"100.0% of the points of samples lie outside"):
        found = evaluate(clouds(seed, s) + 5, clouds(seed + 1, r), frame="as-is")
    assert found.cd.one_nna == found.emd.one_nna == 1
    assert found.cd.cov <= s / r and found.emd.cov <= s / r
    assert found.jsd == pytest.approx(1)
    assert found.outside_ball == (1, 0)


@quick
@given(seeds, st.integers(2, 5), st.integers(2, 5))
def test_exchanging_the_sets_exchanges_the_sides(seed, s, r):
    X, Y = clouds(seed, s), clouds(seed + 1, r)
    one = evaluate(X, Y, frame="as-is").scores()
    other = evaluate(Y, X, frame="as-is").scores()
    for d in ("cd", "emd"):
        assert one[f"mmd_{d}"] == pytest.approx(other[f"mmd_{d}_samples"])
        assert one[f"one_nna_{d}_samples"] == other[f"one_nna_{d}_references"]
        assert one[f"one_nna_{d}"] == other[f"one_nna_{d}"]
    assert one["jsd"] == pytest.approx(other["jsd"])


@outside_is_fine
@quick
@given(seeds, st.floats(0.1, 100))
def test_the_unit_frame_forgets_place_and_scale(seed, scale):
    X, Y = clouds(seed, 4), clouds(seed + 1, 5)
    here, there = (evaluate(scale * A, scale * B) for A, B in ((X, Y), (X + 7, Y + 7)))
    plain = evaluate(X, Y)
    for name, value in plain.scores().items():
        assert there.scores()[name] == pytest.approx(value, rel=1e-6, abs=1e-3 if name == "jsd" else 1e-9)
    lengths = evaluate(scale * X, scale * Y, frame="as-is").scores()
    for name, value in here.data_units().items():
        assert value == pytest.approx(lengths[name], rel=1e-9)


def test_the_unit_frame_fills_the_ball():
    Y = clouds(0, 4) * 30 + 100
    frame = metrics.unit_frame(Y)
    placed = (Y - Y.new_tensor(frame.shift)) * frame.factor
    assert placed.norm(dim=-1).max().item() == pytest.approx(0.5)
    torch.testing.assert_close(placed.flatten(0, 1).amax(0), -placed.flatten(0, 1).amin(0))
    with pytest.raises(ValueError, match=r"references \(2, 4, 3\) are one point"):
        metrics.unit_frame(torch.ones(2, 4, 3))


def scores_by_loops(S, R, distance):
    """MMD, COV, 1-NNA as sentences: the reference is left of a sample, the earlier cloud's row is left."""
    cross = [[distance(r, s) for s in S] for r in R]
    mmd = np.mean([min(row) for row in cross])
    cov = len({min(range(len(R)), key=lambda r, s=s: cross[r][s]) for s in range(len(S))}) / len(R)
    everything = [(cloud, "R", i) for i, cloud in enumerate(R)] + [(cloud, "S", i) for i, cloud in enumerate(S)]
    hits = {"R": [], "S": []}
    for cloud, side, i in everything:
        others = []
        for other, its_side, k in everything:
            if (its_side, k) == (side, i):
                continue
            if its_side == side:
                others.append((distance(other, cloud), its_side))  # down the column: the row is left
            else:
                others.append((cross[i][k] if side == "R" else cross[k][i], its_side))
        hits[side].append(min(others)[1] == side)
    return mmd, cov, np.mean(hits["R"]), np.mean(hits["S"])


@pytest.mark.parametrize("protocol", ["exact", "pointflow", "pvd"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_their_definitions(protocol, seed):
    S, R = clouds(seed, 5, 12), clouds(seed + 9, 7, 12)
    found = evaluate(S, R, protocol, frame="as-is").emd
    mmd, cov, nna_r, nna_s = scores_by_loops(S, R, lambda x, y: ops.emd(x, y, protocol).value.item())
    assert found.mmd == pytest.approx(mmd) and found.cov == cov
    assert (found.one_nna_references, found.one_nna_samples) == pytest.approx((nna_r, nna_s))
    assert found.one_nna == pytest.approx((7 * nna_r + 5 * nna_s) / 12)


@quick
@given(seeds, st.integers(2, 6), st.integers(2, 6))
def test_nearest_neighbours_are_sought_down_the_columns(seed, s, r):
    generator = torch.Generator().manual_seed(seed)
    rr, rs, ss = (torch.rand(*shape, generator=generator) for shape in ((r, r), (r, s), (s, s)))
    hits = []
    for j in range(r):
        own = min(float(rr[i, j]) for i in range(r) if i != j)
        hits.append(own < rs[j].min())
    for j in range(s):
        own = min(float(ss[i, j]) for i in range(s) if i != j)
        hits.append(own < rs[:, j].min())
    found = metrics.distance_scores(rr, rs, ss)
    assert found.one_nna == pytest.approx(np.mean(hits))
    assert found.one_nna_references == pytest.approx(np.mean(hits[:r]))


# JSD


def test_the_grid_has_10144_cells_and_points_go_to_the_nearest():
    axis = np.arange(28) / 27 - 0.5
    every = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    centres = every[(every**2).sum(1) <= 0.25]
    assert len(centres) == 10144 == occupancy._cells().n
    generator = np.random.default_rng(0)
    points = generator.normal(size=(40, 3))  # most of them outside the ball
    nearest = [((centres - p) ** 2).sum(1).argmin() for p in points]
    found = occupancy.cell_counts(torch.from_numpy(points).reshape(2, 20, 3)).toarray()
    assert np.array_equal(found[1], np.bincount(nearest[20:], minlength=10144)) and found.sum() == 40


def test_jsd_by_hand():
    cell = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]) / 27 + 1 / 54
    # P = (1, 0), Q = (1/2, 1/2), their middle (3/4, 1/4)
    P, Q = cell[[0, 0]].expand(2, 2, 3), cell.expand(3, 2, 3)
    entropy = lambda *p: -sum(x * np.log2(x) for x in p)  # noqa: E731
    assert metrics.jsd(P, Q) == pytest.approx(entropy(0.75, 0.25) - entropy(0.5, 0.5) / 2)


def test_jsd_says_how_much_lies_outside():
    inside, outside = torch.zeros(2, 100, 3) + 0.01, torch.zeros(2, 100, 3) + 0.01
    outside[:, :7] = 1.0
    with pytest.warns(UserWarning, match=r"^7\.0% of the points of samples lie outside .* radius 1/2"):
        metrics.jsd(outside, inside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.jsd(inside, inside)
    assert metrics.outside_ball(outside) == pytest.approx(0.07)


# what is said before the long work


def refuse(*_):
    raise AssertionError("the work has begun")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((clouds(0, 5)[[0, 1, 1, 1]], clouds(1, 4)), "2 of the 4 clouds of samples are copies of others there"),
        ((clouds(0, 4), clouds(1, 5)[[0, 0, 1]]), "1 of the 3 clouds of references are copies of others there"),
        ((clouds(0, 4), clouds(0, 4)), "4 of the 4 clouds of samples are among references"),
        ((clouds(0, 4), torch.cat([clouds(1, 4), clouds(0, 4)[2:3]])), "1 of the 4 clouds of samples are among refer"),
        ((clouds(0, 4), clouds(1, 4), clouds(1, 4)), "4 of the 4 clouds of training are among references"),
        (([clouds(0, 4), clouds(0, 4)], clouds(1, 4)), "4 of the 8 clouds of samples are copies of others there"),
        ((clouds(0, 4) + 1, clouds(1, 4)), "100.0% of the points of samples lie outside"),
    ],
)
def test_what_spoils_the_scores_is_said_first(given, message):
    samples, references, *training = given
    with pytest.raises(UserWarning, match=message):  # warnings are errors here
        evaluate(samples, references, training=training[0] if training else None, progress=refuse)


def test_sets_without_copies_are_not_accused():
    X = clouds(0, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sets.warn_copies([("X", X), ("the same points in another order", X.flip(1)), ("Y", clouds(1, 4))])
    with pytest.warns(UserWarning, match="1 of the 2 clouds of Y are copies"):  # 0 and -0
        sets.warn_copies([("Y", torch.stack([torch.zeros(3, 3), -torch.zeros(3, 3)]))])


# the report


@outside_is_fine
def test_the_report_says_how_it_was_got():
    S, R = clouds(0, 4).numpy().astype(np.float32), clouds(1, 5).numpy().astype(np.float32)
    report = evaluate(S, R, "pvd", emd="exact", frame="unit", points=8).as_dict()
    assert json.loads(json.dumps(report)) == report
    assert (report["protocol"], report["emd"], report["frame"], report["points"]) == ("pvd", "exact", "unit", 8)
    assert report["counts"] == {"samples": 4, "references": 5}
    assert report["deviations"] == [
        "EMD 'exact' in place of 'pvd'",
        "frame 'unit' in place of 'as-is'",
        "8 points a cloud in place of 2048",
        "4 samples against 5 references: 1/2 is not the ideal 1-NNA",
    ]
    assert report["choices"]["point_range"] == [10000, 12048] and report["choices"]["cd"].startswith("squared")
    assert report["sha256"]["samples"] == hashlib.sha256(S[:, :8].astype("<f8").tobytes()).hexdigest()
    assert report["versions"]["torch"] == torch.__version__
    assert "training_set" not in report
    assert evaluate(S, R[:4], "exact", emd="exact", frame="unit").deviations == ()


@outside_is_fine
def test_emd_can_be_left_out():
    found = evaluate(clouds(0, 3), clouds(1, 3), emd="none")
    assert found.emd is None and not any("emd" in name for name in found.scores())
    assert found.deviations == ("EMD 'none' in place of 'exact'",)
    assert "EMD none" in found.table()


@outside_is_fine
def test_the_training_set_is_a_second_row():
    S, R, T = clouds(0, 4), clouds(1, 5), clouds(2, 9)
    found = evaluate(S, R, training=T, seed=3)
    yardstick = found.training_set
    assert yardstick.counts == (4, 5) and yardstick.names == ("training", "references")
    chosen = T[torch.randperm(9, generator=torch.Generator().manual_seed(3))[:4]]
    alone = evaluate(chosen, R)
    assert yardstick.scores() == alone.scores() and yardstick.sha256 == alone.sha256
    assert found.scores() == evaluate(S, R).scores()
    assert found.as_dict()["training_set"]["seed"] == 3
    lines = found.table().splitlines()
    assert " ".join(lines[0].split()) == "MMD-CD MMD-EMD COV-CD COV-EMD 1-NNA-CD 1-NNA-EMD JSD"
    assert lines[1].startswith("training") and lines[2].startswith("samples")
    assert [float(v) for v in lines[2].split()[1:]] == pytest.approx(
        [found.scores()[n] for n in ("mmd_cd", "mmd_emd", "cov_cd", "cov_emd", "one_nna_cd", "one_nna_emd", "jsd")],
        rel=1e-3,
    )


@outside_is_fine
def test_progress_counts_every_stage_to_its_end():
    seen = {}
    evaluate(clouds(0, 3), clouds(1, 4), progress=lambda *call: seen.setdefault(call[0], []).append(call[1:]))
    stages = ("references x references", "references x samples", "samples x samples")
    assert list(seen) == [f"{distance} {stage}" for stage in stages for distance in ("cd", "emd")]
    for calls in seen.values():
        done, totals = zip(*calls)
        assert len(set(totals)) == 1 and done[-1] == totals[0] and list(done) == sorted(set(done))


@outside_is_fine
def test_single_precision_is_measured_in_it():
    S, R = clouds(0, 6, 40).float(), clouds(1, 6, 40).float()
    single, double = evaluate(S, R), evaluate(S.double(), R)
    assert (single.dtype, double.dtype) == ("float32", "float64") and single.sha256 == double.sha256
    for name, value in double.scores().items():
        assert single.scores()[name] == pytest.approx(value, rel=1e-6)
    assert evaluate(list(S.numpy()), R.half()).dtype == "float32"


@outside_is_fine
def test_any_kind_of_array_gives_the_same():
    S, R = clouds(0, 3), clouds(1, 4)
    expected = evaluate(S, R).scores()
    read_only = S.numpy().copy()
    read_only.flags.writeable = False
    for given_S in (S.numpy(), list(S), list(S.numpy()), read_only, S.clone().requires_grad_()):
        assert evaluate(given_S, R.numpy()).scores() == expected
    ragged = [torch.cat([cloud, cloud[:k]]) for k, cloud in enumerate(S)]
    assert evaluate(ragged, R, points=20).scores() == expected


# reconstruction


@quick
@given(seeds, st.floats(0.001, 0.2))
def test_reconstruction_of_translated_clouds(seed, step):
    Y = clouds(seed, 3)
    t = step * torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), dim=0)
    found = metrics.reconstruction(Y + t, Y, threshold=1.001 * step)
    assert found.emd == pytest.approx(step) and found.f_score == 1 and found.pairs == 3
    assert found.cd <= 2 * step**2 * (1 + 1e-9)
    without = metrics.reconstruction(Y + t, Y, emd="none")
    assert without.emd is None and without.f_score is None and without.cd == found.cd


def test_reconstruction_pairs_in_order():
    Y = clouds(0, 3)
    assert metrics.reconstruction(Y, Y).cd == 0 < metrics.reconstruction(Y, Y.flip(0)).cd
    assert metrics.reconstruction(Y[:, :5], Y, emd="none").cd > 0  # another number of points
    with pytest.raises(ValueError, match="got 2 reconstructed and 3 references"):
        metrics.reconstruction(Y[:2], Y)
    with pytest.raises(ValueError, match=r"emd must be one of .* got 'pdv' \(nearest: 'pvd'"):
        metrics.reconstruction(Y, Y, emd="pdv")
    with pytest.raises(ValueError, match="the EMD needs clouds of equal size, got 5 and 20 points"):
        metrics.reconstruction(Y[:, :5], Y)


# what is refused

nan = clouds(0, 3)
nan[1, 2, 0] = torch.nan


@pytest.mark.parametrize(
    ("samples", "options", "error", "message"),
    [
        (clouds(0, 3), {"protocol": "pdv"}, ValueError, r"exact, .*, shapegf, got 'pdv' \(nearest: 'pvd'\)"),
        (clouds(0, 3), {"emd": "Exact"}, ValueError, r"emd must be one of .* got 'Exact' \(nearest: 'exact'\)"),
        (clouds(0, 3), {"frame": "asis"}, ValueError, r"frame must be one of .* \(nearest: 'as-is'\)"),
        (clouds(0, 1), {}, ValueError, "samples must hold at least 2 clouds, got 1"),
        ([], {}, ValueError, "samples must hold at least 2 clouds, got 0"),
        (clouds(0, 3, 9), {}, ValueError, r"got 9 and 20 \(points=9 takes the first 9 of each\)"),
        ([torch.zeros(4, 3), torch.zeros(5, 3)], {}, ValueError, r"samples must hold .* 4 to 5 points \(points=4"),
        (clouds(0, 3), {"points": 21}, ValueError, r"at least points=21 points, got 20"),
        (clouds(0, 3), {"points": 0}, ValueError, "points must be at least 1, got 0"),
        (nan, {}, ValueError, r"samples\[1\] must be finite"),
        (clouds(0, 3)[..., :2], {}, ValueError, r"samples\[0\] must be a cloud \(N, 3\) .* got \(20, 2\)"),
        (["a.npy", "b.npy"], {}, TypeError, r"samples\[0\] must be an array of numbers \(N, 3\), got str"),
        (3, {}, TypeError, r"samples must be an array \(S, N, 3\) .* got int"),
        (clouds(0, 3), {"training": clouds(0, 2)}, ValueError, "training must hold at least 3 clouds, got 2"),
        (clouds(0, 3), {"training": clouds(0, 3, 9)}, ValueError, "training and references must have equally"),
    ],
)
def test_mistakes_are_named(samples, options, error, message):
    with pytest.raises(error, match=message) as raised:
        evaluate(samples, clouds(1, 4), **options)
    assert "\n" not in str(raised.value)
