"""Keys that were typed and that nothing uses."""

from contextlib import nullcontext

import pytest

from tunelab.audit import refuse_foreign_splits, refuse_unread_keys
from tunelab.config import RunConfig, forget_reads, mark_read, to_plain
from tunelab.errors import ConfigError
from tunelab.preflight import build_adapter_config, mark_read_later, plan_training, prepare

TEXT = ("peft.num_virtual_tokens=3", "~peft.r", "peft.prompt_tuning_init=TEXT", "peft.prompt_tuning_init_text=five")


def used(config: RunConfig) -> None:
    """What a run does before it looks for unread keys."""
    adapter = build_adapter_config(config)
    prepared = prepare(config)
    mark_read_later(config, plan_training(config, prepared, adapter), prepared)


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        (["peft.lr_factor=3"], "peft.lr_factor"),  # beside optim.lr, which a tiny run gives
        (["optim.lr=null", "peft.lr_factor=3"], None),
        (["peft.num_calibration_examples=0"], "peft.num_calibration_examples"),
        (["peft=eva", "peft.num_calibration_examples=3"], None),
        (["peft=none", "peft.r=8"], "peft.r"),
        (["peft=last_layers", "~peft.r", "peft.num_layers=1"], None),
        (["peft.num_layers=null"], "peft.num_layers"),
        (["peft.lora_dropout=0.1", "peft.use_rslora=true", "optim.optimizer.eps=1e-6"], None),
        (["peft=prompt_tuning", *TEXT, "peft.lr_factor=3"], "peft.lr_factor"),
        (["peft=prompt_tuning", *TEXT, "peft.lr_factor=3", "optim.lr=null"], None),
        (["logger=csv", "logger.csv.flush_logs_every_n_steps=2"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_keys_inside_of_dictionaries_count(overrides: list[str], unused: str | None, tiny_config, tmp_path):
    config = tiny_config(f"output_dir={tmp_path}", *overrides)
    used(config)
    typed = [each for each in overrides if not each.startswith("~")]
    with pytest.raises(ConfigError, match=f"^{unused}: set, but nothing uses it") if unused else nullcontext():
        refuse_unread_keys(config, typed)


def test_settings_of_a_sweep_without_one_are_told_what_is_missing(tiny_config):
    config = tiny_config("sweep.workers=2", "search.num_trials=3")
    with pytest.raises(ConfigError, match=r"^sweep\.workers, search\.num_trials: .* add -m, or remove it\.$"):
        refuse_unread_keys(config, ["sweep.workers=2", "search.num_trials=3"])


def test_a_dictionary_remembers_what_was_read_of_it(tiny_config):
    config = tiny_config()
    node = config.peft
    assert "r" in node
    assert len(node) == len(list(node)) == len(to_plain(config)["peft"])
    with pytest.raises(ConfigError, match=r"^peft\.r, peft\.bias: "):
        refuse_unread_keys(config, ["peft.r=4", "peft.bias=none"])
    assert (node["r"], node.get("nothing")) == (4, None)
    mark_read(config.peft, "bias", "nothing")
    refuse_unread_keys(config, ["peft.r=4", "peft.bias=none", "peft=lora"])
    with pytest.raises(ConfigError, match=r"^peft\.nothing: "):
        refuse_unread_keys(config, ["peft.nothing=1"])
    forget_reads(config)
    with pytest.raises(ConfigError, match=r"^peft\.r: "):
        refuse_unread_keys(config, ["peft.r=4"])


@pytest.mark.parametrize(
    ("typed", "refused"),
    [
        (["data.path=mine.jsonl"], "data.path: set beside data.validation_path and data.test_path"),
        (["data.path=mine.jsonl", "data.test_path=t.jsonl"], "data.path: set beside data.validation_path of"),
        (["data=file", "data.path=mine.jsonl"], None),
        (["data=tickets", "data.path=mine.jsonl"], None),
        (["data.path=mine.jsonl", "data.validation_path=null", "data.test_path=null"], None),
        (["data.path=embedded:tickets/validation.jsonl"], None),
        (["seed=1"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_own_data_are_not_measured_on_the_default_set(typed: list[str], refused: str | None, compose_config):
    config = compose_config(*typed)
    with pytest.raises(ConfigError, match=refused) if refused else nullcontext():
        refuse_foreign_splits(config.data, typed)
