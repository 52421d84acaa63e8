"""The model under evaluation as lm-evaluation-harness wants it: asked by text, computed on as for any other metric."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tunelab.data.records import Conversation, Message, Role, TokenizedExample
from tunelab.data.rendering import ChosenTemplate, make_renderer
from tunelab.data.upstream import added_token_settings, adds_bos, bos_token_id, decode, decode_texts, encode_texts
from tunelab.errors import ConfigError, DataError
from tunelab.evaluation.decoding import Decoding
from tunelab.evaluation.evaluating import SplitSettings, sequence_sums
from tunelab.evaluation.generating import causal_lm_of, dense_attention, generate, max_positions_of
from tunelab.evaluation.sampling import Sampling
from tunelab.evaluation.statistics import Floats
from tunelab.model.tokenizer import completion_text, pad_token_id

UNLIMITED = 2048  # positions to use of a model that sets no limit, as lm-eval does
MAX_NEW_TOKENS = 256  # of a task that sets no limit, as lm-eval does
SAMPLING_KEYS = ("temperature", "top_p", "top_k")
READ_KEYS = {"until", "max_gen_toks", "do_sample", *SAMPLING_KEYS}


class LanguageModel(TemplateLM):
    """Log-likelihoods by the run's own objective, completions by its own decoding loop.

    `tokenizer` is public because lm-eval reads it. `num_cut` counts the requests that were too long and lost
    their beginning. With a `template` questions are rendered as in training.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, settings: SplitSettings, template: ChosenTemplate | None
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.num_cut = 0
        self._model, self._settings = model, replace(settings, padded=True)
        self._renderer = make_renderer(template, tokenizer) if template else None
        self._bos = bos_token_id(tokenizer) if adds_bos(tokenizer) and not (template and template.writes_bos) else None
        self._max_length = max_positions_of(model) or UNLIMITED

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the beginning-of-sequence token, else the end of another text."""
        bos = bos_token_id(self.tokenizer)
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, behind a beginning-of-sequence token where the tokenizer puts one and the text has none."""
        [ids] = encode_texts(self.tokenizer, [string])
        wants_bos = self._bos is not None and add_special_tokens is not False and ids[:1] != [self._bos]
        return [self._bos, *ids] if wants_bos and self._bos is not None else ids

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of a cache that is not used."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text before an answer to the last message; without a generation prompt that is the answer's beginning."""
        assert self._renderer is not None, "asked for with a template only"
        begun = "" if add_generation_prompt else chat_history[-1]["content"]
        asked = chat_history if add_generation_prompt else chat_history[:-1]
        messages = [Message(Role(each["role"]), each["content"]) for each in asked]
        answer = Message(Role.ASSISTANT, "x", trained=True)  # stands where the answer will
        return (
            self._renderer.render(Conversation((*messages, answer), "a question of harness.tasks"))[-1].prompt + begun
        )

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is what greedy decoding writes) of each continuation of a context."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        sums = self._sums([(context, continuation) for _, context, continuation in requests])
        return [(-nll, num_right == count) for nll, count, num_right in sums.tolist()]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of whole texts, in windows in which each token is predicted once."""
        del disable_tqdm
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for place, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            # A window of n predicted tokens is n + 1 positions here, with the token that it starts from.
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self._max_length - 1, context_len=1):
                windows.append(make_disjoint_window(window))
                owners.append(place)
        found = [0.0] * len(requests)
        for owner, nll in zip(owners, self._sums(windows)[:, 0].tolist(), strict=True):
            found[owner] -= nll
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """A completion of each prompt, up to the first of its stop texts; repeated prompts get samples of their own."""
        del disable_tqdm
        asked: list[tuple[str, dict[str, Any]]] = [cast(Any, request).args for request in requests]
        groups: dict[str, list[int]] = {}
        for place, (_, how) in enumerate(asked):
            groups.setdefault(repr(how), []).append(place)
        found: dict[int, str] = {}
        for places in groups.values():
            texts = self._complete([asked[place][0] for place in places], asked[places[0]][1])
            found |= dict(zip(places, texts, strict=True))
        return [found[place] for place in range(len(requests))]

    def _complete(self, prompts: Sequence[str], asked: Mapping[str, Any]) -> list[str]:
        how: dict[str, Any] = dict(normalize_gen_kwargs(dict(asked), MAX_NEW_TOKENS))
        unknown = sorted(how.keys() - READ_KEYS)
        if unknown:
            raise ConfigError(
                f"harness.tasks: expected generation_kwargs of {', '.join(sorted(READ_KEYS))}, found "
                f"{', '.join(unknown)} in a task; take it out of the task's file, or leave the task out."
            )
        room = min(how["max_gen_toks"], self._max_length - 1)
        ids = [self._cut(self.tok_encode(prompt), self._max_length - room) for prompt in prompts]
        seen, samples = Counter[str](), list[int]()
        for prompt in prompts:
            samples.append(seen[prompt])
            seen[prompt] += 1
        until = [text for text in how["until"] if text]
        decoding = Decoding(
            max_new_tokens=room,
            batch_tokens=self._settings.config.generation_batch_tokens,
            end_token_ids=sorted({*self._settings.end_token_ids, *self._stops(until)}),
            pad_token_id=pad_token_id(self.tokenizer),
            sampling=self._sampling(how),
        )
        completions = generate(self._model, ids, decoding, samples)
        texts = [completion_text(self.tokenizer, each.token_ids) for each in completions]
        return [postprocess_generated_text(text, until, None) for text in texts]

    def _sampling(self, how: Mapping[str, Any]) -> Sampling | None:
        if not how["do_sample"]:
            return None
        temperature, top_p, top_k = (how.get(key) for key in SAMPLING_KEYS)
        return Sampling(temperature or 1.0, top_p or 1.0, top_k or None, self._settings.config.seed)

    def _stops(self, until: Sequence[str]) -> set[int]:
        """Tokens that a completion may end at because nothing of what they begin would be kept.

        Special tokens, which leave no text to find, and tokens that begin with a stop text of line breaks.
        """
        added = added_token_settings(self.tokenizer)
        special = {each for each, token in added.items() if token.special and token.content in until}
        breaks = tuple(text for text in until if not text.strip("\r\n"))
        if not breaks:
            return special
        texts = decode_texts(self.tokenizer, [[each] for each in range(len(self.tokenizer))])
        return special | {each for each, text in enumerate(texts) if text.startswith(breaks)}

    def _sums(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Floats:
        """nll, tokens, and tokens predicted right, (pairs, 3), of the second ids of each pair behind the first."""
        sequences = [self._sequence(context, continuation) for context, continuation in pairs]
        if not sequences:
            return torch.zeros(0, 3, dtype=torch.float64).numpy()
        with dense_attention(causal_lm_of(self._model)):  # documents may be longer than what was tried padding-free
            return sequence_sums(sequences, self._model, self._settings, pad_token_id(self.tokenizer))

    def _sequence(self, context: list[int], continuation: list[int]) -> TokenizedExample:
        if len(continuation) >= self._max_length:
            raise DataError(
                f"harness.tasks: expected answers shorter than the {self._max_length} positions of the model, found "
                f"one of {len(continuation)}, {decode(self.tokenizer, continuation[:20])!r}…; leave its task out."
            )
        ids = torch.tensor(self._cut(context, self._max_length - len(continuation)) + continuation)
        return TokenizedExample(ids, torch.arange(len(ids)) >= len(ids) - len(continuation), "a request of a task")

    def _cut(self, ids: list[int], limit: int) -> list[int]:
        """The last `limit` of them."""
        self.num_cut += len(ids) > limit
        return ids[-limit:]
