"""What the jobs of a sweep need not each do again: what the base model says, and (in one process) its weights.

Both are found again by content: a bit of difference in data, model, evaluation, code or machine, and they are new.
"""

import copy
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tunelab.atomic import write_text
from tunelab.config import Quantization, to_plain
from tunelab.data.records import EvaluationExample
from tunelab.data.upstream import tokenizer_state
from tunelab.evaluation.observing import Observations
from tunelab.hashing import file_sha256
from tunelab.locking import held
from tunelab.measuring import Measurement
from tunelab.model.loading import load_base_model
from tunelab.provenance import machine_facts
from tunelab.session import Session


@dataclass(frozen=True, slots=True)
class Shared:
    """What jobs have in common: a folder, and where they run in one process the base model loaded last."""

    folder: Path
    models: dict[str, PreTrainedModel] | None = None


@dataclass(frozen=True, slots=True)
class SharedBase:
    """What the base model showed (None: it is yet to be measured), and the other run that measured it, if one did."""

    observations: Observations | None = None
    measured_by: str | None = None


def observe_base(
    shared: Shared,
    session: Session,
    measure: Measurement,
    examples: Sequence[EvaluationExample],
    model: PreTrainedModel,
) -> SharedBase:
    """Run the base model on `examples`, or find what it showed in a job with the same content.

    Of several jobs that ask at once one measures and the others wait for it.
    """
    key = observation_key(session, measure, examples)
    if key is None:
        return SharedBase(measure.observe(model, examples))
    shared.folder.mkdir(parents=True, exist_ok=True)
    path = shared.folder / f"base_{key}.json"
    with held(path.with_suffix(".lock"), timeout=-1):
        found = _read(path)
        if found is None:
            observed = measure.observe(model, examples)
            _write(path, session.folder.path.name, observed)
            return SharedBase(observed)
    return found


def observation_key(session: Session, measure: Measurement, examples: Sequence[EvaluationExample]) -> str | None:
    """A hash of all that the observations of the base depend on; None where its content is not known."""
    base = session.folder.read_json("provenance.json").get("base_model", {})
    if not (base.get("sha256") or base.get("commit")):
        return None
    config, prepared = session.config, session.prepared
    facts = {
        "base": base,
        "model": to_plain(config.model),
        "evaluation": to_plain(measure.config),
        "examples": _examples_sha256(examples[: measure.config.max_examples]),
        "tokenizer": tokenizer_state(prepared.tokenizer),
        "ends": measure.ends,
        "layout": [measure.padded, measure.micro_batch_tokens, asdict(measure.objective)],
        "device": [prepared.device.type, prepared.precision.value, prepared.quantization, str(prepared.base_dtype)],
        "machine": machine_facts(),
        "code": code_sha256(),
    }
    return _sha256(facts)[:32]


def base_copy(shared: Shared, session: Session) -> PreTrainedModel:
    """A base model of the session's own: loaded, or copied from the one that an earlier job of this process loaded."""
    config, device = session.config.model, session.prepared.device
    if shared.models is None or config.quantization is not Quantization.none or session.prepared.quantization:
        return load_base_model(config, device)
    base = session.folder.read_json("provenance.json").get("base_model")
    key = _sha256([base, to_plain(config), str(device)])
    if key not in shared.models:
        shared.models.clear()  # one at a time: it is a model's worth of memory
        shared.models[key] = load_base_model(config, device)
    return copy.deepcopy(shared.models[key])


@functools.cache
def code_sha256() -> str:
    """SHA-256 of this package's code."""
    package = Path(__file__).parent
    return _sha256({str(path.relative_to(package)): file_sha256(path) for path in sorted(package.rglob("*.py"))})


def _examples_sha256(examples: Sequence[EvaluationExample]) -> str:
    """SHA-256 of the examples that are measured on, whatever they were made of."""
    content = hashlib.sha256()
    for example in examples:
        ids, mask = example.tokenized.input_ids.tolist(), example.tokenized.loss_mask.tolist()
        choices = [asdict(choice) for choice in example.choices]
        texts = [example.prompt, example.response, example.origin]
        content.update(json.dumps([ids, mask, example.prompt_ids, texts, choices]).encode())
    return content.hexdigest()


def _read(path: Path) -> SharedBase | None:
    """None where there is nothing, or not what was written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["sha256"] != _sha256(content["observations"]):
            return None
        return SharedBase(Observations.from_dict(content["observations"]), content["measured_by"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, run: str, observed: Observations) -> None:
    plain = observed.to_dict()
    write_text(path, json.dumps({"measured_by": run, "sha256": _sha256(plain), "observations": plain}))


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
