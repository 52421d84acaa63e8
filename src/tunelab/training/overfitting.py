"""Tells from the figures of a run whether it went on learning its training examples after it had stopped learning."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TAIL = 0.1  # of the logged steps: their mean is the training loss at the end
RISE = 0.02  # of the validation loss above its best, from which on it is worth a warning


@dataclass(frozen=True, slots=True)
class Overfitting:
    """Losses in nats per supervised token. `train_loss`: mean over the last tenth of the logged steps."""

    best_step: int
    best_val_loss: float
    last_val_loss: float
    train_loss: float

    @property
    def rise(self) -> float:
        """How far the last validation loss lies above the best one, as a fraction of it."""
        return self.last_val_loss / self.best_val_loss - 1 if self.best_val_loss > 0 else 0.0

    def warning(self, kept_step: int | None) -> str | None:
        """A sentence, where the validation loss rose again; `kept_step`: the step whose weights are exported."""
        if self.rise <= RISE:
            return None
        return (
            f"overfitting after step {self.best_step}: the validation loss rose from {self.best_val_loss:.4g} "
            f"to {self.last_val_loss:.4g}, the training loss is {self.train_loss:.4g}; the weights of step "
            f"{kept_step} are kept. Fewer steps, more data, or a lower rate may help."
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, and `gap`: the last validation loss less the training loss."""
        return asdict(self) | {"gap": self.last_val_loss - self.train_loss}


def read_overfitting(path: Path) -> Overfitting | None:
    """What metrics.jsonl says; None where there is no validation, or a loss that is no number."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    validated = [(float(line["val/loss"]), int(line["step"])) for line in lines if line.get("val/loss") is not None]
    trained = [float(line["train/loss"]) for line in lines if line.get("train/loss") is not None]
    if not validated or not trained or not all(map(math.isfinite, (*trained, *(loss for loss, _ in validated)))):
        return None
    (best, step), last = min(validated), validated[-1][0]
    tail = trained[-max(1, round(TAIL * len(trained))) :]
    return Overfitting(step, best, last, math.fsum(tail) / len(tail))
