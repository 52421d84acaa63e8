"""Metrics of the reference tokens: loss, perplexity and token accuracy, from the sums of each example."""

import numpy as np

from tunelab.evaluation.metrics.registry import FRACTION, Metric, Unit, ratio
from tunelab.evaluation.scores import Scores
from tunelab.evaluation.statistics import Floats

NATS = Unit("nats/token", 0, np.inf)
PER_TOKEN = Unit("", 1, np.inf)


def perplexity_value(sums: Floats) -> Floats:
    """exp(nll_sum / token_count); inf where that exceeds a float."""
    with np.errstate(over="ignore"):
        return np.exp(ratio(sums))


NEEDS = "a supervised token"
LOSS = Metric("loss", "loss (nats/token)", NATS, better=False, needs=NEEDS)
PERPLEXITY = Metric("perplexity", "perplexity", PER_TOKEN, better=False, value=perplexity_value, needs=NEEDS)
TOKEN_ACCURACY = Metric("token_accuracy", "token accuracy", FRACTION, needs=NEEDS)


def token_level_scores(sums: Floats) -> list[Scores]:
    """The three metrics from (num_examples, 3) sums of nll, supervised tokens and tokens predicted right."""
    applies = sums[:, 1] > 0
    nll, correct = sums[:, :2], sums[:, [2, 1]]
    return [Scores(LOSS, nll, applies), Scores(PERPLEXITY, nll, applies), Scores(TOKEN_ACCURACY, correct, applies)]
