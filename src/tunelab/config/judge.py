"""Who judges completions, and how it is asked."""

from dataclasses import dataclass

from tunelab.config.review import PredictionsConfig
from tunelab.config.section import MISSING, require


@dataclass(kw_only=True)
class JudgeConfig(PredictionsConfig):
    """What `tunelab judge` asks, of a model behind an OpenAI-compatible address."""

    base_url: str = MISSING  # http://localhost:8000/v1, say
    judge: str = MISSING  # the model that judges, as the server calls it
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key; unset: none is sent
    criteria: str | None = None  # what makes an answer better, in words; null: correct, complete, to the point
    show_reference: bool = True  # show the judge the reference answer too
    num_examples: int | None = None  # drawn at random by `seed`; null: all
    seed: int = 0  # of the draw
    max_tokens: int = 1024  # of one reply
    temperature: float | None = 0.0  # null: is not sent, for models that allow their own alone
    num_parallel: int = 4  # requests under way at once
    timeout_seconds: float = 120.0  # of one request
    num_retries: int = 5  # after what may pass: no connection, timeouts, 408, 409, 429, 5xx
    to: str | None = None  # a folder, gone on with where it has replies; null: judge, beside the (first) predictions

    def __post_init__(self) -> None:
        PredictionsConfig.__post_init__(self)
        if self.base_url is not MISSING:
            require(self.base_url.startswith(("http://", "https://")), "base_url", "an http(s) address", self.base_url)
        for key in ("max_tokens", "num_parallel"):
            require(getattr(self, key) >= 1, key, "at least 1", getattr(self, key))
        number = self.num_examples
        require(number is None or number >= 1, "num_examples", "null or at least 1", number)
        temperature = self.temperature
        require(temperature is None or temperature >= 0, "temperature", "null, or 0 or more", temperature)
        require(self.timeout_seconds > 0, "timeout_seconds", "more than 0", self.timeout_seconds)
        require(self.num_retries >= 0, "num_retries", "0 or more", self.num_retries)
        require(0 <= self.seed < 2**32, "seed", "an integer in [0, 2**32)", self.seed)
