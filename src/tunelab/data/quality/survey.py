"""The first pass over the examples: what each is, reduced to a few bytes; then the verdict.

Of a training example 146 bytes stay: two 64-bit digests, a signature of 128 bytes, 16 flags (and 4 bytes for
`balance_by`, and the origin where an action is `error`); of an evaluation example also its origin and the hashes of its
n-grams, 12 bytes each and at most 48 MB a split. Two million rows are about 290 MB, and with the sorting of one band
and the n-gram index less than 500 MB.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tunelab.config import Action, QualityConfig
from tunelab.data.quality.columns import GrowingColumn
from tunelab.data.quality.contents import Content, content_of
from tunelab.data.quality.duplicates import NUM_HASHES, signatures_of
from tunelab.data.quality.evidence import SplitEvidence, SplitFacts, judge
from tunelab.data.quality.labels import LabelCounts, column_value
from tunelab.data.quality.overlap import EvaluationNgrams
from tunelab.data.quality.patterns import PATTERNS, Pattern, find, special_token_pattern
from tunelab.data.quality.rules import BIT, HAS_WORDS, Rules, read_rules
from tunelab.data.quality.verdict import Verdict
from tunelab.data.quality.words import SCRIPTS, Surveyed, survey_pieces
from tunelab.data.records import Example

_BATCH_CHARACTERS = 250_000
_BATCH_EXAMPLES = 512
_REPLACEMENT = 0xFFFD


class Survey:
    """Looks at every example of every split once, in order."""

    def __init__(self, config: QualityConfig, special_tokens: Iterable[str]) -> None:
        """`special_tokens` are the texts of the tokenizer's special tokens. Reads `config` only where it is enabled."""
        self._rules = read_rules(config)
        special = special_token_pattern(special_tokens)
        self._patterns = (*PATTERNS, special) if special else PATTERNS
        self._splits: dict[str, _SplitSurvey] = {}

    def add(self, split: str, example: Example, fields: Mapping[str, Any]) -> None:
        """Look at the next example of `split` ("train", "validation" or "test"); `fields` are its row's columns.

        Raises DataError where a training row lacks the column of `balance_by`.
        """
        if not self._rules.actions:
            return
        if split not in self._splits:
            self._splits[split] = _SplitSurvey(split, self._rules, self._patterns)
        self._splits[split].add(example, fields)

    def conclude(self) -> Verdict:
        """Decide about every example; the survey is used up.

        Raises DataError where the action of a check is `error` and it found something in any split. (Shared n-grams are
        only known on the second pass: `Verdict.reason` raises then.)
        """
        evidence = {split: survey.conclude() for split, survey in self._splits.items()}
        self._splits = {}
        return Verdict(self._rules, judge(evidence, self._rules))


class _SplitSurvey:
    """The survey of one split: a buffer of examples, and columns of what was seen."""

    def __init__(self, split: str, rules: Rules, patterns: Iterable[Pattern]) -> None:
        self._is_train = split == "train"
        self._rules = rules
        self._patterns = tuple(patterns)
        self._identities = GrowingColumn(np.uint64)
        self._prompts = GrowingColumn(np.uint64)
        self._signatures = GrowingColumn(np.uint8, NUM_HASHES)
        self._flags = GrowingColumn(np.uint16)
        self._codes = GrowingColumn(np.int32)
        self._code_of: dict[str, int] = {}
        self._labels = LabelCounts()
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._scripts = np.zeros(len(SCRIPTS), np.int64)
        self._ngrams = None if self._is_train else EvaluationNgrams(rules.ngram_words)
        self._keep_origins = not self._is_train or bool(rules.checks_with(Action.error))
        self._origins: list[str] = []
        self._batch: list[Content] = []
        self._batch_codes: list[int] = []
        self._batch_characters = 0

    def add(self, example: Example, fields: Mapping[str, Any]) -> None:
        content = content_of(example)
        if self._keep_origins:
            self._origins.append(example.origin)
        self._count_label(content, fields, example.origin)
        self._batch.append(content)
        self._batch_characters += len(content.text) + len(content.aside)
        if self._batch_characters >= _BATCH_CHARACTERS or len(self._batch) >= _BATCH_EXAMPLES:
            self._look()

    def conclude(self) -> SplitEvidence:
        self._look()
        return SplitEvidence(
            identities=self._identities.take(),
            prompts=self._prompts.take(),
            signatures=self._signatures.take(),
            flags=self._flags.take(),
            codes=self._codes.take(),
            facts=SplitFacts(
                labels=self._labels.counts,
                kinds=dict(self._kinds),
                script_counts=self._scripts,
                origins=self._origins,
                ngrams=self._ngrams.index() if self._ngrams is not None else None,
            ),
        )

    def _count_label(self, content: Content, fields: Mapping[str, Any], origin: str) -> None:
        column = self._rules.balance_by
        if column is None:
            if content.response is not None:
                self._labels.add(content.response.strip())
            return
        value = column_value(fields, column, origin, required=self._is_train)
        self._labels.add(value)
        self._batch_codes.append(self._code_of.setdefault(value, len(self._code_of)))

    def _look(self) -> None:
        """Look at the buffered examples, all at once."""
        batch, self._batch, self._batch_characters = self._batch, [], 0
        codes, self._batch_codes = self._batch_codes, []
        pieces = [piece for content in batch for piece in (content.aside, content.text)]
        surveyed = survey_pieces(pieces)
        found = {*_damage(surveyed), *((piece // 2, p.check, p.kind) for piece, p in find(pieces, self._patterns))}
        flags = np.fromiter(map(self._response_flags, batch), np.uint16, len(batch))
        flags[surveyed.words.counts > 0] |= HAS_WORDS
        for example, check, kind in found:
            flags[example] |= BIT[check]
            self._kinds[check, kind] += 1
        self._identities.append(np.array([content.identity for content in batch], np.uint64))
        self._prompts.append(np.array([content.prompt for content in batch], np.uint64))
        self._signatures.append(signatures_of(surveyed.words))
        self._flags.append(flags)
        self._codes.append(np.array(codes, np.int32))
        self._scripts += surveyed.script_counts
        if self._ngrams is not None:
            self._ngrams.add(surveyed.words)

    def _response_flags(self, content: Content) -> int:
        if content.response is None:
            return 0
        length = len(content.response.strip())
        if not length:
            return BIT["empty_responses"]
        return BIT["short_responses"] if length < self._rules.short_characters else 0


def _damage(surveyed: Surveyed) -> Iterable[tuple[int, str, str]]:
    for piece, code_point in zip(surveyed.damaged_pieces, surveyed.damaged_code_points, strict=True):
        kind = "replacement characters" if code_point == _REPLACEMENT else "control characters"
        yield int(piece) // 2, "encoding_damage", kind
