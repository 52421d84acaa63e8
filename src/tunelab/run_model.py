"""The model of a run, as training finds it: the base, and on it the adapter, said and recorded."""

from transformers import PreTrainedModel

from tunelab.config import Precision
from tunelab.model.adapter import CausalLM, attach_adapter, count_parameters, ready_for_adapter, skip_input_casts
from tunelab.model.covering import coverage, is_all_linear, untied_end
from tunelab.model.loading import enable_checkpointing, load_base_model
from tunelab.model.new_tokens import new_token_ids, train_new_tokens
from tunelab.model.quantizing import quantization_report
from tunelab.model.sharing import attach_same_adapter, is_computed
from tunelab.session import Session
from tunelab.sharing import Shared, base_copy
from tunelab.training.launcher import join_processes
from tunelab.training.objective import has_plain_head


def load_base(session: Session, shared: Shared | None) -> PreTrainedModel:
    """The base model as it is trained on; of a quantised one the summary says what became of it."""
    config = session.config
    base = base_copy(shared, session) if shared else load_base_model(config.model, session.prepared.device)
    if config.trainer.gradient_checkpointing:
        enable_checkpointing(base)
    base = ready_for_adapter(base)
    if session.prepared.quantization is not None:
        report = quantization_report(base, session.prepared.quantization)
        session.console.print(str(report))
        session.folder.summary.facts["quantization"] = report.to_dict()
    return base


def attach(session: Session, base: PreTrainedModel) -> CausalLM:
    """The adapter of the run on the base, which it may change; what is trained of how much goes into the summary."""
    config = session.config
    new_ids = new_token_ids(session.prepared.tokenizer, config.model.new_tokens)
    if session.plan.tuning.folder is None:  # a continued adapter names its tokens itself
        train_new_tokens(session.plan.peft_config, base, new_ids)
    model = _make_adapter(session, base)
    if session.prepared.precision is not Precision.fp32:
        skip_input_casts(model)
    count = count_parameters(model)
    session.console.print(f"{count}, adapter {session.method}")
    covered = coverage(model, everything=is_all_linear(session.plan.peft_config))
    if covered is not None:
        session.console.print(str(covered))
        session.folder.summary.facts["coverage"] = covered.to_dict()
    untied = untied_end(model)
    if untied is not None:
        session.console.print(untied)
    if not has_plain_head(model):
        session.console.print("the head is adapted: the model projects the supervised positions itself")
    if new_ids:
        session.console.print(f"new tokens: {len(new_ids)}, ids {min(new_ids)} to {max(new_ids)}")
    session.folder.summary.facts |= {
        "peak_lr": session.plan.peak_lr,
        "num_trainable_parameters": count.trainable,
        "num_parameters": count.total,
    }
    return model


def _make_adapter(session: Session, base: PreTrainedModel) -> CausalLM:
    adapter, start = session.plan.peft_config, session.adapter_start()
    if adapter is None or session.config.trainer.devices == 1 or not is_computed(adapter, start):
        return attach_adapter(base, adapter, session.config.seed, start)
    join_processes(session.prepared.device)
    return attach_same_adapter(base, adapter, session.config.seed, start)
