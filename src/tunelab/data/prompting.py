"""The prompt of a conversation under way, with the ids that data preparation would give it."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tunelab.data.fitting import prompt_ids
from tunelab.data.records import Conversation, Message, Role
from tunelab.data.rendering import ChosenTemplate, make_renderer
from tunelab.data.tokenizing import Encoder
from tunelab.data.upstream import adds_bos, bos_token_id

_ORIGIN = "the conversation"
_ANSWER = "x"  # stands where the answer will: a prompt ends where the last response begins


class Prompter:
    """Renders and encodes conversations with one template, along the path of training examples."""

    def __init__(self, template: ChosenTemplate, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = make_renderer(template, tokenizer)
        self._encoder = Encoder(tokenizer, not template.writes_bos and adds_bos(tokenizer))
        self._bos_id = bos_token_id(tokenizer)

    @property
    def end_of_turn(self) -> str:
        """The special token that ends a trained response."""
        return self._renderer.end_of_turn

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids that an answer to the last of `messages` begins after.

        Raises:
            DataError: the template cannot show this conversation.
        """
        answer = Message(Role.ASSISTANT, _ANSWER, trained=True)
        rendered = self._renderer.render(Conversation((*messages, answer), _ORIGIN))[-1]
        encoded = self._encoder.encode([rendered])[0]
        return prompt_ids(encoded, encoded.num_tokens, self._bos_id)
