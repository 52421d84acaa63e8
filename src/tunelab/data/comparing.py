"""The rejected answers of preference pairs, as the model would see them: for people who look at the data."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from tunelab.config import DataConfig
from tunelab.data.preparing import open_stage
from tunelab.data.reading import Reader, Tally
from tunelab.data.records import Conversation, TokenizedExample, tokenized
from tunelab.data.rendering import rejected_of
from tunelab.data.tokenizing import encode


def rejected_answers(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, origins: Sequence[str]
) -> dict[str, TokenizedExample]:
    """Return, by origin, the prompt with the rejected answer, of those examples that have one.

    Rows are read again. Nothing is supervised: supervised fine-tuning learns the chosen answer alone.
    """
    stage = open_stage(config, tokenizer)
    if not any(feed.layout.format == "preference" for feed in stage.feeds):
        return {}
    wanted, found = set(origins), dict[str, TokenizedExample]()
    for item in Reader(config, stage.feeds).read(Tally(config.on_bad_row, config.max_bad_fraction)):
        example = item.example
        if example.origin in wanted and isinstance(example, Conversation) and example.rejected:
            rendered = stage.renderer.render(rejected_of(example))
            shown = tokenized(encode(rendered, tokenizer, stage.add_bos)[-1])
            found[example.origin] = replace(shown, loss_mask=torch.zeros_like(shown.loss_mask))
        if len(found) == len(wanted):
            break
    return found
