"""How much a linear classifier learns from features of shapes, beside what it learns from raw moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import beta

from pcgen.metrics.intervals import Interval
from pcgen.metrics.sets import Clouds, as_clouds

__all__ = ["LinearProbe", "linear_probe", "raw_moments"]

FOLDS = 5
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class LinearProbe(NamedTuple):
    """What a linear classifier reached."""

    accuracy: float  # on the test set, in [0, 1]
    interval: Interval  # of it, 90 %, over the draw of the test set
    majority: float  # accuracy of always saying the most frequent training label
    penalty: float  # of the squared weights, the best in cross-validation
    validation: float  # accuracy in cross-validation on the training set


def linear_probe(
    train_features: ArrayLike, train_labels: ArrayLike, test_features: ArrayLike, test_labels: ArrayLike
) -> LinearProbe:
    """Accuracy of multinomial logistic regression on features (S, F) and labels (S,), integers or strings.

    Features are standardised by the training set; the penalty of the squared weights is the best of five in 5-fold
    cross-validation, and nothing is random. PointFlow's third table does this with a linear SVM on the codes of
    ModelNet shapes; :func:`raw_moments` are the features that any code should beat. The interval is Clopper and
    Pearson's. ``ValueError`` for other shapes, NaN or infinity, or a single class.

    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> linear_probe(x, x[:, 0] > 0, x, x[:, 0] > 0).accuracy
    1.0
    """
    X, y = _labelled(train_features, train_labels, "train")
    Z, truth = _labelled(test_features, test_labels, "test")
    if X.shape[1] != Z.shape[1]:
        raise ValueError(f"test_features must have the {X.shape[1]} columns of train_features, got {Z.shape[1]}")
    classes, y = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"train_labels must name at least two classes, got only {classes[0]!r}")
    centre, scale = X.mean(0), X.std(0)
    X, Z = ((A - centre) / np.where(scale > 0, scale, 1) for A in (X, Z))
    folds = np.empty(len(y), int)
    folds[np.argsort(y, kind="stable")] = np.arange(len(y)) % FOLDS  # each class in every fold
    scores = [_cross_validate(X, y, len(classes), folds, penalty) for penalty in PENALTIES]
    best = int(np.argmax(scores))
    weights = _fit(X, y, len(classes), PENALTIES[best])
    right = classes[_predict(weights, Z)] == truth
    hits, count = int(right.sum()), len(right)
    low = beta.ppf(0.05, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(0.95, hits + 1, count - hits) if hits < count else 1.0
    return LinearProbe(
        accuracy=hits / count,
        interval=Interval(float(low), float(high)),
        majority=float((truth == classes[np.bincount(y).argmax()]).mean()),
        penalty=PENALTIES[best],
        validation=float(scores[best]),
    )


def raw_moments(clouds: Clouds) -> np.ndarray:
    """The first, second and third moments (S, 19) of clouds (S, N, 3): means, then central ones about the mean.

    >>> raw_moments([np.eye(3)])[0, :4].round(3)
    array([0.333, 0.333, 0.333, 0.222])
    """
    parts = [as_clouds([cloud], f"clouds[{i}]")[0].cpu().numpy() for i, cloud in enumerate(clouds)]
    two, three = np.triu_indices(3), np.array([(i, j, k) for i in range(3) for j in range(i, 3) for k in range(j, 3)]).T
    rows = []
    for cloud in parts:
        x = cloud - cloud.mean(0)
        second = (x[:, two[0]] * x[:, two[1]]).mean(0)
        third = (x[:, three[0]] * x[:, three[1]] * x[:, three[2]]).mean(0)
        rows.append(np.concatenate([cloud.mean(0), second, third]))
    return np.stack(rows)


def _labelled(features: ArrayLike, labels: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if X.ndim != 2 or not len(X) or y.shape != X.shape[:1]:
        raise ValueError(f"{name}_features must be (S, F) and {name}_labels (S,), got {X.shape} and {y.shape}")
    if not np.isfinite(X).all():
        raise ValueError(f"{name}_features {X.shape} must be finite, got NaN or infinity")
    return X, y


def _fit(X: np.ndarray, y: np.ndarray, classes: int, penalty: float) -> np.ndarray:
    """Weights (F + 1, C), the last row being the intercepts, which are not penalised."""
    X1 = np.column_stack([X, np.ones(len(X))])
    truth = np.eye(classes)[y]
    shrunk = np.r_[np.ones(X.shape[1]), 0.0][:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        W = flat.reshape(-1, classes)
        logits = X1 @ W
        value = -(truth * log_softmax(logits, axis=1)).sum() / len(X) + penalty / 2 * (shrunk * W**2).sum()
        gradient = X1.T @ (softmax(logits, axis=1) - truth) / len(X) + penalty * shrunk * W
        return value, gradient.ravel()

    start = np.zeros(X1.shape[1] * classes)
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x.reshape(-1, classes)


def _predict(weights: np.ndarray, X: np.ndarray) -> np.ndarray:
    return (X @ weights[:-1] + weights[-1]).argmax(1)


def _cross_validate(X: np.ndarray, y: np.ndarray, classes: int, folds: np.ndarray, penalty: float) -> float:
    right = [
        _predict(_fit(X[folds != k], y[folds != k], classes, penalty), X[folds == k]) == y[folds == k]
        for k in range(FOLDS)
    ]
    return float(np.concatenate(right).mean())
