"""What is checked and what is done about it: the quality section of the configuration, read once."""

from dataclasses import dataclass

from tunelab.config import Action, QualityConfig

# Check → the reason given for an example that it leaves out. An example is left out for the first that applies.
REASONS = {
    "exact_duplicates": "exact_duplicate",
    "near_duplicates": "near_duplicate",
    "overlap": "overlap",
    "contradictions": "contradiction",
    "empty_responses": "empty_response",
    "short_responses": "short_response",
    "encoding_damage": "encoding_damage",
    "special_tokens": "special_tokens",
    "secrets": "secrets",
    "personal_data": "personal_data",
    "balance_by": "balanced",
}
BIT = {check: 1 << place for place, check in enumerate(REASONS)}
HAS_WORDS = 1 << 15


@dataclass(frozen=True, slots=True)
class Rules:
    """The checks' actions and figures; `balance_by` is the column that is balanced, if any."""

    actions: dict[str, Action]
    similarity: float
    ngram_words: int
    short_characters: int
    balance_by: str | None

    def checks_with(self, action: Action) -> list[str]:
        """The checks that have `action`, in the order in which they apply."""
        return [check for check in REASONS if self.actions.get(check) is action]


def read_rules(config: QualityConfig) -> Rules:
    """Read every key of the section; where the checks are switched off only that one, and there are no actions."""
    if not config.enabled:
        return Rules(actions={}, similarity=1.0, ngram_words=1, short_characters=1, balance_by=None)
    actions: dict[str, Action] = {check: getattr(config, check) for check in REASONS if check != "balance_by"}
    if config.balance_by is not None:
        actions["balance_by"] = Action.drop
    return Rules(
        actions=actions,
        similarity=config.near_duplicate_similarity,
        ngram_words=config.overlap_ngram_words,
        short_characters=config.short_response_characters,
        balance_by=config.balance_by,
    )
