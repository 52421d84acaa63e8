"""Asks a model behind an OpenAI-compatible address, and remembers every reply."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tunelab import atomic
from tunelab.config import JudgeConfig
from tunelab.errors import ConfigError, DataError, TunelabError

Messages = Sequence[Mapping[str, str]]
_PASSING = (408, 409, 429, 500, 502, 503, 504)
_NEW_NAME = "max_completion_tokens"
_BACKOFF_SECONDS = 0.5  # before the second retry, then twice as long each time; the server's Retry-After goes first


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply. `is_refusal`: the model or its server declined; `is_cut`: it ended at `max_tokens`, not by itself."""

    text: str
    is_refusal: bool = False
    is_cut: bool = False


class JudgeClient:
    """Sends requests, several at once, and keeps the replies in `path`: what was paid for is not asked again."""

    def __init__(self, config: JudgeConfig, path: Path) -> None:
        self._config, self._path = config, path
        self._known = _read_replies(path)
        self._has_new_name = False
        self._session = requests.Session()
        retry = Retry(
            config.num_retries,
            status_forcelist=_PASSING,
            allowed_methods=None,
            backoff_factor=_BACKOFF_SECONDS,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=config.num_parallel))
        self._session.trust_env = False  # no credentials of other programs (.netrc) go to the judge
        key = os.environ.get(config.api_key_env)
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def ask_all(self, questions: Sequence[Messages]) -> list[Answered]:
        """The reply to each question; those that are remembered are not asked again.

        Raises:
            TunelabError: the server cannot be reached, or refuses the key, the model or the request. The replies so far
                are kept.
        """
        keys = [self._key(question) for question in questions]
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in self._known}
        with ThreadPoolExecutor(self._config.num_parallel) as pool:
            pending = {pool.submit(self._ask, question): key for key, question in missing.items()}
            try:
                for done in as_completed(pending):
                    self._keep(pending[done], done.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self._known[key] for key in keys]

    def _body(self, messages: Messages) -> dict[str, Any]:
        config = self._config
        body = {"model": config.judge, "messages": list(messages), "max_tokens": config.max_tokens}
        return body if config.temperature is None else {**body, "temperature": config.temperature}

    def _key(self, messages: Messages) -> str:
        text = json.dumps([self._config.base_url, self._body(messages)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def _keep(self, key: str, answer: Answered) -> None:
        self._known[key] = answer
        atomic.append_line(self._path, json.dumps({"key": key, **asdict(answer)}))

    def _ask(self, messages: Messages) -> Answered:
        config = self._config
        address = f"{config.base_url.rstrip('/')}/chat/completions"
        try:
            response = self._post(address, self._body(messages))
        except requests.RequestException as error:
            raise TunelabError(
                f"base_url: expected a judge at {address}, found none that answers after {config.num_retries} retries "
                f"({_reason(error)}); mend that, and type the same again: the replies so far are kept."
            ) from error
        return _read(response, config)

    def _post(self, address: str, body: dict[str, Any]) -> requests.Response:
        """The response; newer models refuse `max_tokens` and say that they want it under another name."""
        options: dict[str, Any] = {"timeout": self._config.timeout_seconds, "allow_redirects": False}
        if not self._has_new_name:
            response = self._session.post(address, json=body, **options)
            if response.status_code != 400 or _NEW_NAME not in response.text:
                return response
            self._has_new_name = True
        renamed = {_NEW_NAME if name == "max_tokens" else name: value for name, value in body.items()}
        return self._session.post(address, json=renamed, **options)


def _read(response: requests.Response, config: JudgeConfig) -> Answered:
    if response.status_code in (401, 403):
        raise ConfigError(
            f"api_key_env: the judge refuses the key in the environment variable {config.api_key_env} "
            f"(HTTP {response.status_code}); set it, or api_key_env=<another>."
        )
    if response.status_code != 200:
        if "content_filter" in response.text:
            return Answered(response.text, is_refusal=True)
        other = ", or set temperature=null" if "temperature" in response.text else ""
        raise TunelabError(
            f"base_url, judge: expected an answer of {config.judge!r}, found HTTP {response.status_code} "
            f"({' '.join(response.text.split())[:200]}); mend base_url or judge{other}, and type the same again."
        )
    try:
        choice = response.json()["choices"][0]
        message = choice["message"]
        refusal, text = message.get("refusal"), message.get("content") or ""
        if not isinstance(text, str):
            raise TypeError(type(text))
        reason = choice.get("finish_reason")
        return Answered(str(refusal or text), bool(refusal) or reason == "content_filter", reason == "length")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise TunelabError(
            f"base_url: expected a reply of the OpenAI chat completions interface, found "
            f"{' '.join(response.text.split())[:200]!r}; set base_url=<address that ends in /v1>."
        ) from error


def _read_replies(path: Path) -> dict[str, Answered]:
    if not path.is_file():
        return {}
    found: dict[str, Answered] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            found[fields["key"]] = Answered(fields["text"], fields["is_refusal"], fields["is_cut"])
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines) - 1:
                raise DataError(f"{path}:{number}: expected a kept reply, found a damaged line; delete it.") from error
            if line:  # a kill left half of the last one
                atomic.write_text(path, "".join(f"{each}\n" for each in lines[: number - 1]))
    return found


def _reason(error: BaseException) -> str:
    while isinstance(error.__context__, BaseException):
        error = error.__context__
    return str(error)[:200] or type(error).__name__
