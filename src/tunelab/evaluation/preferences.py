"""What choices between two models say: a win rate with its interval and a test, and how far raters agree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunelab.evaluation.statistics import Interval, Verdict, mcnemar_p_value, paired_rate_interval, verdict_of


@dataclass(frozen=True, slots=True)
class Preference:
    """How often the second of two models was preferred, over `count` items.

    `win_rate`: ties count half; 0.5 where neither is better. `interval`: 95 %. `p_value`: the exact sign test over the
    items that are no ties.
    """

    num_wins: int
    num_losses: int
    num_ties: int
    win_rate: float
    interval: Interval
    p_value: float
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


def preference(num_wins: int, num_losses: int, num_ties: int) -> Preference:
    """The win rate of the second model from the items on which it was preferred, the first was, or neither.

    The interval is that of a difference of paired rates (Newcombe 1998, method 10), moved to [0, 1].

    Raises ValueError where there is no item.
    """
    count = num_wins + num_losses + num_ties
    if not count:
        raise ValueError("expected at least one item, found none")
    low, high = paired_rate_interval(0, num_losses, num_wins, num_ties)
    p_value = mcnemar_p_value(num_losses, num_wins)
    return Preference(
        num_wins,
        num_losses,
        num_ties,
        win_rate=(num_wins + num_ties / 2) / count,
        interval=((1 + low) / 2, (1 + high) / 2),
        p_value=p_value,
        verdict=verdict_of(num_wins - num_losses, p_value, higher_is_better=True),
    )


def krippendorff_alpha(choices: Sequence[Mapping[str, str]]) -> float | None:
    """Agreement of raters beyond chance: 1 where all agree, 0 as by chance (Krippendorff 2011, nominal data).

    `choices`: for each item, rater → choice. Not every rater has to rate every item. None where fewer than two
    choices can be paired, or where all of them are the same (chance then explains everything).
    """
    units = [Counter(item.values()) for item in choices if len(item) > 1]
    totals: Counter[str] = sum(units, Counter())
    count = totals.total()
    expected = count * count - sum(number * number for number in totals.values())
    if not expected:
        return None
    observed = sum(
        (unit.total() ** 2 - sum(number * number for number in unit.values())) / (unit.total() - 1) for unit in units
    )
    return 1 - (count - 1) * observed / expected
