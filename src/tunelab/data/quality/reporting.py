"""The report of the quality checks, made of what both passes found."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tunelab.config import Action
from tunelab.data.quality.duplicates import Flags
from tunelab.data.quality.evidence import Judgement
from tunelab.data.quality.findings import MAX_ORIGINS, Finding, QualityReport, first_places
from tunelab.data.quality.labels import MIN_EXAMPLES
from tunelab.data.quality.rules import BIT, Rules
from tunelab.data.quality.scripts import shares
from tunelab.data.quality.sharing import SharedWords
from tunelab.data.quality.wording import Parts, between_detail, detail, overlap_detail

_BETWEEN = "validation_test_overlap"


@dataclass(frozen=True, slots=True)
class Tally:
    """What the second pass found: check → examples left out, origins by place, and shared words."""

    num_dropped: Mapping[str, int]
    origins: Mapping[int, str]
    words: SharedWords


def quality_report(rules: Rules, judgement: Judgement, tally: Tally) -> QualityReport:
    """Return all findings, in the order of the checks and, of one check, of the splits."""
    found = [
        _finding(check, split, rules, judgement, tally)
        for check in rules.actions
        for split in judgement.flags
        if check != "overlap"
    ]
    found += [_overlap(split, rules, judgement, tally) for split in judgement.flags]
    found += [_between(judgement)]
    return QualityReport(
        checks={check: action.value for check, action in rules.actions.items()},
        findings=[finding for finding in found if finding is not None],
        label_balance=_label_balance(rules, judgement),
        scripts={split: shares(facts.script_counts) for split, facts in judgement.facts.items()},
        num_checked={split: int(flags.size) for split, flags in judgement.flags.items()},
    )


def detail_of(check: str, split: str, judgement: Judgement, rules: Rules) -> str:
    """The sentence for what `check` found in `split` on the first pass."""
    flags = judgement.flags[split]
    count = int(np.count_nonzero(flags & BIT[check])), flags.size
    if check == "overlap":
        return overlap_detail(split, count, _parts(split, judgement), rules)
    kinds = {kind: number for (name, kind), number in judgement.facts[split].kinds.items() if name == check}
    return detail(check, split, count, rules, kinds)


def _finding(check: str, split: str, rules: Rules, judgement: Judgement, tally: Tally) -> Finding | None:
    found = judgement.flags[split] & BIT[check] > 0
    if not found.any():
        return None
    return Finding(
        check=check,
        split=split,
        action=_action(check, split, rules),
        num_examples=int(np.count_nonzero(found)),
        num_dropped=tally.num_dropped.get(check, 0) if split == "train" else 0,
        origins=_origins(split, found, judgement, tally),
        detail=detail_of(check, split, judgement, rules),
    )


def _overlap(split: str, rules: Rules, judgement: Judgement, tally: Tally) -> Finding | None:
    """The overlap of a split, shared words included: the second pass is over."""
    known = judgement.flags[split] & BIT["overlap"] > 0
    ngrams = judgement.facts[split].ngrams
    found = known if ngrams is None else known | ngrams.shared
    num_found = int(np.count_nonzero(found)) + (tally.words.num_new if split == "train" else 0)
    if not num_found:
        return None
    origins = _origins(split, found, judgement, tally)
    if split == "train":
        origins = tuple(dict.fromkeys((*origins, *tally.words.origins)))[:MAX_ORIGINS]
    return Finding(
        check="overlap",
        split=split,
        action=_action("overlap", split, rules),
        num_examples=num_found,
        num_dropped=tally.num_dropped.get("overlap", 0) if split == "train" else 0,
        origins=origins,
        detail=overlap_detail(split, (num_found, found.size), _parts(split, judgement, tally.words), rules),
    )


def _parts(split: str, judgement: Judgement, words: SharedWords | None = None) -> Parts:
    shared = [
        one
        for pair, one in judgement.shared.items()
        if pair[0] == split and "train" in pair  # validation with test is a finding of its own
    ]
    exactly = np.logical_or.reduce([one.exactly for one in shared])
    nearly = np.logical_or.reduce([one.nearly for one in shared]) & ~exactly
    ngrams = [facts.ngrams for facts in judgement.facts.values() if facts.ngrams is not None]
    own = judgement.facts[split].ngrams
    by_words = words.num_examples if own is None and words is not None else 0
    return Parts(
        exactly=int(np.count_nonzero(exactly)),
        nearly=int(np.count_nonzero(nearly)),
        by_words=by_words if own is None else int(np.count_nonzero(own.shared)),
        one_in=max((index.one_in for index in ngrams), default=1) if own is None else own.one_in,
    )


def _between(judgement: Judgement) -> Finding | None:
    """What validation and test share. Neither is ever cut, so it is only reported."""
    shared = judgement.shared.get(("validation", "test"))
    if shared is None or not shared.either.any():
        return None
    found = shared.either
    parts = Parts(int(np.count_nonzero(shared.exactly)), int(np.count_nonzero(shared.nearly)))
    num_found = int(np.count_nonzero(found))
    return Finding(
        check=_BETWEEN,
        split="validation",
        action=Action.report.value,
        num_examples=num_found,
        num_dropped=0,
        origins=tuple(judgement.facts["validation"].origins[place] for place in first_places(found)),
        detail=between_detail((num_found, found.size), parts),
    )


def _origins(split: str, found: Flags, judgement: Judgement, tally: Tally) -> tuple[str, ...]:
    kept = judgement.facts[split].origins
    places = first_places(found)
    return tuple(kept[place] if kept else tally.origins[place] for place in places)


def _action(check: str, split: str, rules: Rules) -> str:
    """The action that applies: nothing is dropped outside of train."""
    action = rules.actions[check]
    return (Action.report if action is Action.drop and split != "train" else action).value


def _label_balance(rules: Rules, judgement: Judgement) -> dict[str, dict[str, int]]:
    """The labels of every split that has few, where the training examples are enough to speak of labels."""
    train = judgement.facts.get("train")
    if train is None or (rules.balance_by is None and sum(train.labels.values()) < MIN_EXAMPLES):
        return {}
    return {split: facts.labels for split, facts in judgement.facts.items() if facts.labels}
