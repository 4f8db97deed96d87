"""Fit a risk to judged outputs, by scikit-learn."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from docmill.storage.steps.risk import FLAG, NUMBERS, FittedRisk, Result, RiskFeature, RiskModel, value_of
from docmill.worker.errors import WorkerError

FEWEST = 200  # judgements that a risk is fitted to
FEWEST_OF_EACH = 20  # good ones, and bad ones
RARE = 5  # outputs with, and without, a flag that is a feature
FOLDS = 5
STRENGTHS = (0.01, 0.1, 1.0)  # scikit-learn's C: smaller numbers hold coefficients closer to 0

Numbers = npt.NDArray[np.float64]


def fit(judged: Sequence[tuple[Result, bool]]) -> FittedRisk:
    """Fit a logistic regression to results, each with True if it is bad. The version is 0 until it is stored.

    The strength of its penalty is chosen by cross-validation, and its quality measured on results that it was not
    fitted to, in an outer cross-validation: the Brier score beside that of the share of bad outputs alone, the area
    under the ROC curve, and the bad outputs among those of low, middle and high risk. The sample has more doubtful
    outputs than the job; since these flags are features, the risk needs no weights. Raises WorkerError if there
    are too few judgements, or if the features do not predict them.
    """
    bad = np.array([is_bad for _, is_bad in judged], bool)
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if len(bad) < FEWEST or min(n_bad, n_good) < FEWEST_OF_EACH:
        raise WorkerError(
            f"a risk needs {FEWEST} judgements, with {FEWEST_OF_EACH} good and {FEWEST_OF_EACH} bad ones; there are "
            f"{n_good:,} good and {n_bad:,} bad. Judge more with `docmill review judge JOB`."
        )
    names = choose_features([result for result, _ in judged])
    if not names:
        raise WorkerError(
            "flags, confidence and lengths hardly differ among the outputs, so they cannot predict bad ones. "
            "Nothing was stored."
        )
    values = np.array([[value_of(name, result) for name in names] for result, _ in judged], float)
    with warnings.catch_warnings(action="ignore"):  # scikit-learn's, about its own coming releases
        expected, model = _fit_model(names, values, bad)
    quality = measure(expected, bad)
    if quality["brier"] >= quality["brier_of_share"]:
        raise WorkerError(
            "flags, confidence and lengths do not tell the good outputs from the bad ones: the cross-validated Brier "
            f"score is {quality['brier']:.3f}, and one risk for all outputs has {quality['brier_of_share']:.3f}. "
            "Nothing was stored."
        )
    return FittedRisk(0, model, n_good, n_bad, quality)


def choose_features(results: Sequence[Result]) -> list[str]:
    """Return the features that differ among results: numbers, and flags that neither few nor nearly all carry."""
    carried = Counter(flag for result in results for flag in result["flags"])
    flags = [flag for flag, n in sorted(carried.items()) if RARE <= n <= len(results) - RARE]
    numbers = [
        name
        for name in NUMBERS
        if len({value for result in results if (value := value_of(name, result)) is not None}) > RARE
    ]
    return [*(f"{FLAG}{flag}" for flag in flags), *numbers]


def _fit_model(names: Sequence[str], values: Numbers, bad: npt.NDArray[np.bool_]) -> tuple[Numbers, RiskModel]:
    """Return each output's risk by a model that was not fitted to it, and the model that is fitted to all."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    filled = SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)
    pipeline = make_pipeline(StandardScaler(), filled, LogisticRegression(max_iter=1_000))
    search = GridSearchCV(
        pipeline,
        {"logisticregression__C": STRENGTHS},
        scoring="neg_log_loss",
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=1),
    )
    outer = StratifiedKFold(FOLDS, shuffle=True, random_state=2)
    expected = cross_val_predict(search, values, bad, cv=outer, method="predict_proba")[:, 1]
    scaler, _, regression = search.fit(values, bad).best_estimator_.named_steps.values()
    rows = zip(names, scaler.mean_, scaler.scale_, regression.coef_[0], strict=True)
    effects = tuple(RiskFeature(name, float(mean), float(scale), float(factor)) for name, mean, scale, factor in rows)
    return np.asarray(expected, float), RiskModel(float(regression.intercept_[0]), effects)


def measure(expected: Numbers, bad: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the quality of expected risks: Brier scores, the area under the ROC curve, and three groups by risk."""
    from sklearn.metrics import roc_auc_score

    share = float(bad.mean())
    thirds = np.array_split(np.argsort(expected, kind="stable"), 3)
    return {
        "brier": float(np.mean((expected - bad) ** 2)),
        "brier_of_share": share * (1 - share),
        "auc": float(roc_auc_score(bad, expected)),
        "folds": FOLDS,
        "thirds": [
            {"judged": len(rows), "risk": float(expected[rows].mean()), "bad": float(bad[rows].mean())}
            for rows in thirds
        ],
    }
