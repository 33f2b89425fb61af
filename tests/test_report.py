"""The page about a measurement: what it holds, that it needs nothing else, and when it refuses to compare."""

import dataclasses
import html
import io
import re
import sys
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pcgen import metrics, ops
from pcgen.metrics.protocols import normalised
from pcgen.metrics.published import PUBLISHED, compare
from pcgen.viz import report

pytestmark = pytest.mark.filterwarnings("ignore:.*outside the JSD grid's ball")


def clouds(seed, count, points=30):
    return np.random.default_rng(seed).normal(size=(count, points, 3)) * 0.1


@pytest.fixture(scope="module")
def measured():
    S, R, T = clouds(0, 6), clouds(1, 6), clouds(2, 7)
    scores = metrics.evaluate(S, R, emd="none", training=T, names=("<mine>", "val"))
    return scores, S, R, T


def as_published(scores, protocol="pvd", clouds=405):
    """The scores as if they had been measured by the letter of a protocol."""
    return dataclasses.replace(
        scores, protocol=protocol, choices=metrics.PROTOCOLS[protocol], deviations=(), counts=(clouds, clouds)
    )


class Page(HTMLParser):
    """The tags that are open at the end, and what is fetched from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.fetched += [v for k, v in attributes if k in ("src", "href") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pictures(page):
    return [imread(io.BytesIO(b64decode(data)), format="png") for data in re.findall(r"base64,([^\"]+)\"", page)]


def test_the_page_holds_the_scores_and_needs_nothing_else(measured, tmp_path):
    scores, S, R, T = measured
    copies = metrics.memorisation(S, T, R)
    path = report(scores, S, R, tmp_path / "deep" / "r.html", training=T, memorised=copies)
    page = path.read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.open == [] and parsed.fetched == [] and "<script" not in page and "http" not in page
    assert "&lt;mine&gt;" in page and "<mine>" not in page
    for row in (scores, scores.training_set):
        for name in ("mmd_cd", "cov_cd", "one_nna_cd", "jsd"):
            low, high = row.intervals[name]
            assert f"{row.scores()[name]:.4g}<small>{low:.3g} – {high:.3g}</small>" in page
    assert html.escape(str(copies)) in page
    assert all(sha in page for sha in scores.sha256)


def test_the_pictures_show_the_neighbours(measured, tmp_path, monkeypatch):
    scores, S, R, T = measured
    copies, drawn = metrics.memorisation(S, T, R), []
    module = sys.modules["pcgen.viz.report"]  # the package's attribute of this name is the function
    monkeypatch.setattr(module, "gallery", lambda rows, path, **_: drawn.append(rows) or _blank(path))
    report(scores, S, R, tmp_path / "r.html", training=T, memorised=copies)
    every, closest = drawn
    assert list(every) == ["sample", "nearest reference", "nearest training shape"]
    np.testing.assert_array_equal(every["sample"], S)
    nearest = metrics.memorisation(S, R, R).nearest
    np.testing.assert_array_equal(every["nearest reference"], R[nearest])
    order = np.argsort(copies.samples)
    np.testing.assert_array_equal(closest["sample"], S[order])
    np.testing.assert_array_equal(closest["nearest training shape"], T[copies.nearest[order]])


def test_the_neighbours_are_those_that_were_measured(tmp_path, monkeypatch):
    S, R = (clouds(seed, 6, 40) * np.exp(clouds(seed + 2, 6, 1) * 20) for seed in (0, 1))  # of many sizes
    scores, drawn = metrics.evaluate(S, R, "dpm", points=30), []
    monkeypatch.setattr(
        sys.modules["pcgen.viz.report"], "gallery", lambda rows, path, **_: drawn.append(rows) or _blank(path)
    )
    report(scores, S, R, tmp_path / "r.html")
    own = [normalised(torch.from_numpy(clouds[:, :30]), "box") for clouds in (S, R)]
    np.testing.assert_array_equal(drawn[0]["sample"], own[0])
    np.testing.assert_array_equal(drawn[0]["nearest reference"], own[1][ops.chamfer_matrix(*own).argmin(1)])


def _blank(path):
    path.write_bytes(b"")
    return path


def test_without_training_there_is_one_strip(measured, tmp_path):
    scores, S, R, _ = measured
    page = report(dataclasses.replace(scores, training_set=None), S, R, tmp_path / "r.html").read_text()
    (strip,) = pictures(page)
    assert (strip[..., :3] < 0.99).any(-1).mean() > 0.02
    assert "there is no yardstick here" in page


@pytest.mark.parametrize(
    ("changes", "category", "message"),
    [
        ({"protocol": "exact"}, "airplane", "none of protocol 'exact' are kept here"),
        ({"deviations": ("512 points a cloud in place of 2048",)}, "airplane", "departs from its protocol: 512 points"),
        ({}, "", "are of airplane: no category was named"),
        ({}, "chair", "are of airplane: none of category 'chair'"),
        ({"counts": (400, 405)}, "airplane", "405 samples and as many references, these of 400 and 405"),
    ],
)
def test_what_differs_is_not_compared(measured, tmp_path, changes, category, message):
    scores = dataclasses.replace(as_published(measured[0]), **changes)
    assert compare(scores, category).rows == () and message in compare(scores, category).refusal
    page = report(scores, measured[1], measured[2], tmp_path / "r.html", category=category).read_text()
    assert "Not compared" in page and message in html.unescape(page) and "PVD" not in page.split("Among published")[1]


def test_the_same_protocol_and_size_is_compared(measured, tmp_path):
    scores = as_published(measured[0])
    (row,) = compare(scores, "airplane").rows
    assert row.model == "PVD" and row.scores["one_nna_emd"] == 0.6148  # by PointFlow's EMD it is 0.6741
    page = report(scores, measured[1], measured[2], tmp_path / "r.html", category="airplane").read_text()
    table = page.split("Among published")[1]
    assert "0.7259" in table and row.source in html.unescape(table)
    assert "0.6148" not in table  # this measurement has no EMD
    assert table.index("this measurement") < table.index("0.7259")  # nearer to 1/2
    assert "Not compared" not in page


def test_published_rows_are_fractions_with_sources():
    for row in PUBLISHED:
        assert row.protocol in metrics.PROTOCOLS and row.source and row.clouds > 0
        assert all(0 < value < 1 for value in row.scores.values())
        assert row.scores["mmd_cd"] < 0.01
