"""Win rates against scipy, and the agreement of raters against Krippendorff's own example."""

import pytest
from scipy.stats import binomtest

from tunelab.evaluation.preferences import krippendorff_alpha, preference


@pytest.mark.parametrize(("wins", "losses", "ties"), [(10, 1, 9), (3, 3, 0), (0, 0, 5), (0, 7, 2), (40, 22, 100)])
def test_a_preference(wins, losses, ties):
    found = preference(wins, losses, ties)
    assert found.win_rate == pytest.approx((wins + 0.5 * ties) / (wins + losses + ties))
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert found.p_value == pytest.approx(expected)
    low, high = found.interval
    assert 0 <= low <= found.win_rate <= high <= 1
    assert low < high  # also where all agree
    mirrored = preference(losses, wins, ties)
    assert mirrored.interval == pytest.approx((1 - high, 1 - low))


def test_verdicts():
    assert [preference(*counts).verdict for counts in ((10, 1, 0), (1, 10, 0), (6, 5, 3))] == [
        "better", "worse", "not distinguishable",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="at least one item"):
        preference(0, 0, 0)


# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, a full
# stop for no value; nominal alpha = 0.743.
PUBLISHED = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def units(rows):
    return [{str(rater): row[i] for rater, row in enumerate(rows) if row[i] != "."} for i in range(len(rows[0]))]


def test_the_published_example():
    assert krippendorff_alpha(units(PUBLISHED)) == pytest.approx(0.743, abs=5e-4)


def test_agreement_is_one_where_all_agree_and_about_zero_by_chance():
    assert krippendorff_alpha(units(("abab", "abab"))) == 1.0
    assert krippendorff_alpha(units(("aaaa", "aaaa"))) is None  # chance explains it too
    assert krippendorff_alpha(units(("ab", ".."))) is None
    assert krippendorff_alpha(units(("abab", "baba"))) < 0
