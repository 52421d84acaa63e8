"""Turns a name nobody knows into the name that was probably meant."""

import difflib
from collections.abc import Iterable

_BATCH = "data.batch_size (examples per step over all devices; memory is trainer.micro_batch_tokens)"
_CUT = "data.batch_size (a step is cut to fit trainer.micro_batch_tokens by itself)"
_MASKED = "data.train_on (responses, the default; last_response; all)"
_PADDING_FREE = "model.attention=varlen (padding-free; chosen by itself where it is safe)"

# What people from other tools type → our key (and what is different about it).
FOREIGN_KEYS = {
    "base_model": "model.path",
    "model_name_or_path": "model.path",
    "model_name": "model.path",
    "load_in_4bit": "peft=qlora",
    "adapter": "peft=lora or peft=qlora",
    "finetuning_type": "peft=lora, peft=qlora or peft=none",
    "use_peft": "peft=lora, peft=qlora or peft=none",
    "lora_r": "peft.r",
    "lora_rank": "peft.r",
    "lora_alpha": "peft.lora_alpha",
    "lora_dropout": "peft.lora_dropout",
    "lora_target": "peft.target_modules",
    "lora_target_modules": "peft.target_modules",
    "lora_target_linear": "peft.target_modules=all-linear",
    "dataset": "data.path",
    "dataset_name": "data.path",
    "train_file": "data.path",
    "datasets": "data.path, or data.mix for several",
    "dataset_dir": "data.info=<dataset_info.json> data.name=<entry>",
    "chat_template": "data.template",
    "prompt_template": "data.template",
    "train_on_responses_only": _MASKED,
    "roles_to_train": _MASKED,
    "mask_history": "data.train_on=last_response",
    "val_set_size": "data.validation_fraction",
    "val_size": "data.validation_fraction",
    "split_dataset_ratio": "data.validation_fraction",
    "cutoff_len": "data.max_length",
    "sequence_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "block_size": "data.max_length",
    "per_device_train_batch_size": _BATCH,
    "per_device_batch_size": _BATCH,
    "gradient_accumulation_steps": _CUT,
    "accumulate_grad_batches": _CUT,
    "micro_batch_size": "trainer.micro_batch_tokens (tokens, not examples)",
    "global_batch_size": "data.batch_size",
    "train_on_inputs": _MASKED,
    "mask_prompt": _MASKED,
    "train_on_prompt": _MASKED,
    "completion_only_loss": _MASKED,
    "sample_packing": _PADDING_FREE,
    "packing": _PADDING_FREE,
    "padding_free": _PADDING_FREE,
    "learning_rate": "optim.lr",
    "lr": "optim.lr",
    "lr_scheduler": "optim.schedule",
    "lr_scheduler_type": "optim.schedule",
    "warmup_ratio": "optim.warmup_fraction",
    "weight_decay": "optim.optimizer.weight_decay",
    "betas": "optim.optimizer.betas",
    "eps": "optim.optimizer.eps",
    "adam_beta1": "optim.optimizer.betas=[<beta1>,<beta2>]",
    "adam_beta2": "optim.optimizer.betas=[<beta1>,<beta2>]",
    "adam_epsilon": "optim.optimizer.eps",
    "loraplus_lr_ratio": "optim.lora_plus_ratio",
    "load_in_8bit": "model.quantization=int8",
    "quantization_bit": "model.quantization=nf4 (4) or int8 (8)",
    "bnb_4bit_quant_type": "model.quantization",
    "bnb_4bit_use_double_quant": "model.double_quantization",
    "max_grad_norm": "optim.max_grad_norm",
    "gradient_clip_val": "optim.max_grad_norm",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "max_epochs": "trainer.max_epochs",
    "max_steps": "trainer.max_steps",
    "eval_steps": "trainer.val_every_steps",
    "val_check_interval": "trainer.val_every_steps",
    "save_steps": "trainer.checkpoint_every_steps",
    "logging_steps": "trainer.log_every_steps",
    "bf16": "trainer.precision=bf16",
    "fp16": "trainer.precision=fp16",
    "precision": "trainer.precision",
    "report_to": "logger",
    "resume_from_checkpoint": "resume=<run folder>",
    "max_new_tokens": "evaluation.max_new_tokens",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def explain_unknown_key(key: str, known: Iterable[str]) -> str:
    """One sentence for a configuration key that does not exist: the familiar name's translation, or the closest."""
    known = list(known)
    last = key.rpartition(".")[2]
    foreign = FOREIGN_KEYS.get(key) or FOREIGN_KEYS.get(last)
    if foreign:
        return f"{key}: there is no such key here; what other tools call {last!r} is {foreign}."
    hint = did_you_mean(key, known)
    if not hint:
        by_last = {k.rpartition(".")[2]: k for k in known}
        close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.6)
        hint = f"; did you mean {by_last[close[0]]!r}?" if close else ""
    return f"{key}: there is no such key{hint or '; python train.py --cfg job lists all of them.'}"
