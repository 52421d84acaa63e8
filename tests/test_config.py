"""The typed run tree and what Hydra makes of it."""

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tunelab import config as schema
from tunelab.audit import refuse_unread_keys
from tunelab.compose import dump_config, explain_hydra_error, load_config, prepare_arguments
from tunelab.config import RunConfig, forget_reads, to_plain
from tunelab.errors import ConfigError
from tunelab.preflight import build_adapter_config
from tunelab.suggesting import FOREIGN_KEYS, did_you_mean

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = ("model", "peft", "data", "trainer", "optim", "objective", "evaluation", "logger", "experiment")
GROUP_FILES = sorted(path for group in GROUPS for path in (CONF / group).glob("*.yaml"))
NEEDS = {
    "data=file": ["data.path=rows.jsonl"],
    "experiment=gsm8k": ["data.path=rows.jsonl"],
    "peft=trainable_tokens": ["peft.token_indices=[3,4]"],
}


def saved(config: RunConfig, folder: Path) -> RunConfig:
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    return load_config(folder / "config.yaml")


def explanation(call, *overrides: str) -> str:
    """What a person reads when composing fails."""
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException)) as caught:
        call(*overrides)
    if isinstance(caught.value, ConfigError):
        return str(caught.value)
    return explain_hydra_error(caught.value, RunConfig)


def test_every_group_has_files():
    assert len(GROUP_FILES) >= 16
    assert {path.parent.name for path in GROUP_FILES} >= set(GROUPS) - {"experiment"}


@pytest.mark.parametrize("path", GROUP_FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_group_file_composes_and_is_read_back(path: Path, compose_config, tmp_path: Path):
    override = f"{path.parent.name}={path.stem}"
    config = compose_config(override, *NEEDS.get(override, []))
    assert isinstance(config, RunConfig)
    assert to_plain(saved(config, tmp_path)) == to_plain(config)


@pytest.mark.parametrize("group", ["model", "data", "trainer", "evaluation"])
def test_evaluate_composes_with_every_file_of_its_groups(group: str, compose_config):
    files = sorted((CONF / group).glob("*.yaml"))
    assert files
    for path in files:
        override = f"{group}={path.stem}"
        config = compose_config(override, *NEEDS.get(override, []), "run=somewhere", command="evaluate")
        assert isinstance(config, schema.EvaluateConfig)
        assert config.run == "somewhere"


def test_a_composed_config_holds_plain_objects_only(compose_config):
    def kinds(value) -> set[type]:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {type(value)}.union(*map(kinds, inside))

    config = compose_config("optim.optimizer.betas=[0.8,0.9]")
    assert kinds(to_plain(config)) <= {dict, list, str, int, float, bool, type(None)}
    assert type(config.optim.optimizer["betas"]) is list
    assert type(config.peft["r"]) is int


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        (schema.DataConfig, {"max_length": 1}, "data.max_length"),
        (schema.DataConfig, {"batch_size": 0}, "data.batch_size"),
        (schema.DataConfig, {"validation_fraction": 1.0}, "data.validation_fraction"),
        (schema.DataConfig, {"test_fraction": -0.1}, "data.test_fraction"),
        (schema.DataConfig, {"validation_fraction": float("nan")}, "data.validation_fraction"),
        (schema.DataConfig, {"max_train_rows": 0}, "data.max_train_rows"),
        (schema.TrainerConfig, {"max_epochs": 0}, "trainer.max_epochs"),
        (schema.TrainerConfig, {"micro_batch_tokens": 0}, "trainer.micro_batch_tokens"),
        (schema.TrainerConfig, {"devices": 0}, "trainer.devices"),
        (schema.TrainerConfig, {"log_every_steps": -1}, "trainer.log_every_steps"),
        (schema.TrainerConfig, {"max_steps": 0}, "trainer.max_steps"),
        (schema.TrainerConfig, {"val_every_steps": 0}, "trainer.val_every_steps"),
        (schema.TrainerConfig, {"early_stopping_patience": 0}, "trainer.early_stopping_patience"),
        (schema.TrainerConfig, {"checkpoint_every_steps": 0}, "trainer.checkpoint_every_steps"),
        (schema.TrainerConfig, {"num_sample_completions": -1}, "trainer.num_sample_completions"),
        (schema.OptimConfig, {"lr": -1e-3}, "optim.lr"),
        (schema.OptimConfig, {"lr": float("inf")}, "optim.lr"),
        (schema.OptimConfig, {"warmup_fraction": 1.5}, "optim.warmup_fraction"),
        (schema.OptimConfig, {"min_lr_fraction": -0.5}, "optim.min_lr_fraction"),
        (schema.OptimConfig, {"max_grad_norm": 0.0}, "optim.max_grad_norm"),
        (schema.ObjectiveConfig, {"head_chunk_tokens": 0}, "objective.head_chunk_tokens"),
        (schema.EvaluationConfig, {"max_new_tokens": 0}, "evaluation.max_new_tokens"),
        (schema.EvaluationConfig, {"generation_batch_tokens": 0}, "evaluation.generation_batch_tokens"),
        (schema.EvaluationConfig, {"max_examples": 0}, "evaluation.max_examples"),
        (schema.RunConfig, {"seed": -1}, "seed"),
        (schema.RunConfig, {"seed": 2**32}, "seed"),
    ],
)
def test_a_value_out_of_range_names_its_key_and_itself(section, values, key: str):
    with pytest.raises(ConfigError) as caught:
        section(**values)
    [found] = values.values()
    assert str(caught.value).startswith(f"{key}: expected ")
    assert f"found {found!r}" in str(caught.value)
    assert f"set {key}=" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (schema.DataConfig, {"max_length": 2, "batch_size": 1, "validation_fraction": 0.0, "test_fraction": 0.99}),
        (schema.TrainerConfig, {"max_epochs": 1, "max_steps": 1, "num_sample_completions": 0}),
        (schema.OptimConfig, {"lr": 0.0, "warmup_fraction": 1.0, "min_lr_fraction": 1.0, "max_grad_norm": None}),
        (schema.RunConfig, {"seed": 2**32 - 1}),
    ],
)  # fmt: skip
def test_the_ends_of_the_ranges_are_allowed(section, values):
    config = section(**values)
    assert {key: getattr(config, key) for key in values} == values


def test_ranges_are_checked_on_the_command_line_too(compose_config):
    assert "data.batch_size: expected at least 1" in explanation(compose_config, "data.batch_size=0")


def test_quantised_weights_are_not_fully_trained(compose_config):
    config = compose_config("peft=none", "model.quantization=nf4")
    with pytest.raises(ConfigError, match=r"^model\.quantization: expected none for full fine-tuning.*peft=qlora"):
        build_adapter_config(config)
    assert compose_config("peft=qlora").model.quantization is schema.Quantization.nf4


def test_evaluate_needs_a_run_or_an_adapter():
    with pytest.raises(ConfigError, match="set run=<run folder> or adapter=<PEFT folder>"):
        schema.EvaluateConfig()
    assert schema.EvaluateConfig(adapter="somewhere").run is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.schedule=linear", schema.Schedule.linear),
        ("trainer.precision=bf16", schema.Precision.bf16),
        ("data.over_length=drop", schema.OverLength.drop),
        ("model.attention=padded", schema.Attention.padded),
        ("model.dtype=float16", schema.DType.float16),
        ("model.quantization=none", schema.Quantization.none),  # not the null of YAML
    ],
)
def test_enumerated_values(override: str, expected, compose_config):
    key = override.partition("=")[0].split(".")
    assert getattr(getattr(compose_config(override), key[0]), key[1]) is expected


def test_a_wrong_enumerated_value_lists_the_right_ones(compose_config):
    message = explanation(compose_config, "optim.schedule=cosin")
    assert "optim.schedule" in message
    assert "cosine" in message


@pytest.fixture
def experiment(tmp_path: Path) -> list[str]:
    """Overrides that choose an experiment from a folder of one's own."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\noptim: {lr: 0.5}\npeft: {r: 3}\ndata: {max_length: 77}\n", encoding="utf-8"
    )
    return [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"]


def test_an_experiment_wins_over_the_groups(compose_config, experiment: list[str]):
    config = compose_config(*experiment)
    assert (config.name, config.optim.lr, config.peft["r"], config.data.max_length) == ("mine", 0.5, 3, 77)
    assert config.peft["lora_alpha"] == 32  # the rest of the group stays


def test_the_command_line_wins_over_an_experiment(compose_config, experiment: list[str]):
    config = compose_config(*experiment, "optim.lr=0.25", "peft.r=5", "data=file", "data.path=a.csv")
    assert (config.optim.lr, config.peft["r"], config.data.path, config.data.max_length) == (0.25, 5, "a.csv", 77)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("peft.use_dora=true", lambda config: config.peft["use_dora"] is True),
        ("optim.optimizer.amsgrad=true", lambda config: config.optim.optimizer["amsgrad"] is True),
        ("logger.tensorboard.max_queue=5", lambda config: config.logger["tensorboard"]["max_queue"] == 5),
        ("optim.lr=3e-4", lambda config: config.optim.lr == 3e-4),
        ("seed=0", lambda config: config.seed == 0),
    ],
)
def test_keys_of_a_class_need_no_plus(override: str, found, compose_config):
    assert found(compose_config(override))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.lrr=1", "optim.lr"),
        ("trainer.maxsteps=3", "trainer.max_steps"),
        ("data.batchsize=3", "data.batch_size"),
        ("model.pth=x", "model.path"),
        ("batch_size=4", "data.batch_size"),
        ("sed=1", "seed"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(typed: str, meant: str, compose_config):
    message = explanation(compose_config, typed)
    assert f"did you mean {meant!r}?" in message
    assert "\n" not in message


def test_a_key_like_no_other_is_pointed_to_the_list():
    with pytest.raises(ConfigError, match=r"no such key; python train\.py --cfg job lists all of them"):
        prepare_arguments(["qqqqqq=1"], RunConfig)


def test_an_unknown_group_choice_lists_the_choices(compose_config):
    message = explanation(compose_config, "model=tinny")
    assert "tinny" in message
    assert "mistral7b" in message


@pytest.mark.parametrize("foreign", sorted(FOREIGN_KEYS))
def test_names_of_other_tools_are_explained(foreign: str, compose_config):
    message = explanation(compose_config, f"{foreign}=1")
    assert message.startswith(f"{foreign}: there is no such key here; what other tools call {foreign!r} is ")
    assert FOREIGN_KEYS[foreign] in message


@pytest.fixture(scope="module")
def every_key(compose_config) -> dict[str, Any]:
    return to_plain(compose_config())


@pytest.mark.parametrize("foreign", sorted(FOREIGN_KEYS))
def test_the_keys_that_explanations_name_exist(foreign: str, every_key: dict[str, Any]):
    """Whatever looks like a key or a group choice in the explanation can be typed."""
    explained = FOREIGN_KEYS[foreign]
    named = re.findall(r"\b(?:%s)(?:\.[a-z_]+)+(?:=[\w-]+)?|\b\w+=[\w-]+" % "|".join(GROUPS), explained)  # noqa: UP031
    if not named:
        assert explained in ("logger", "resume=<run folder>") or explained.startswith("nothing: ")
        return
    for name in named:
        key, _, value = name.partition("=")
        if value and (CONF / key).is_dir():
            assert (CONF / key / f"{value}.yaml").is_file(), f"{foreign} names {name}, which does not exist"
            continue
        place: Any = every_key
        for part in key.split("."):
            assert part in place, f"{foreign} names {key}, which does not exist"
            place = place[part]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.batch_size=many", "data.batch_size"),
        ("data.batch_size=1.5", "data.batch_size"),
        ("trainer.gradient_checkpointing=perhaps", "trainer.gradient_checkpointing"),
        ("optim.lr=fast", "optim.lr"),
        ("data.columns=[a]", "data.columns"),
        ("seed=null", "seed"),
    ],
)
def test_a_wrong_type_names_the_key(override: str, key: str, compose_config):
    message = explanation(compose_config, override)
    assert key in message
    assert "\n" not in message


def test_a_missing_value_says_what_to_set(compose_config):
    with pytest.raises(ConfigError, match=r"^model\.path: expected a value, found none; set model\.path=<value>\.$"):
        compose_config("model.path=???")


def test_a_saved_config_that_does_not_fit_is_refused(compose_config, tmp_path: Path):
    text = dump_config(compose_config())
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("  lr: null", "  lrr: null"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"optim\.lrr.*did you mean 'optim\.lr'"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"expected the config\.yaml of a run folder"):
        load_config(tmp_path / "elsewhere.yaml")


def test_reading_is_recorded_and_forgotten():
    config = schema.TrainerConfig()
    assert "max_epochs" in schema.read_keys(config)  # the checks read it
    forget_reads(config)
    assert schema.read_keys(config) == set()
    _ = config.devices
    assert schema.read_keys(config) == {"devices"}


def test_a_key_that_was_set_and_not_used_is_refused(compose_config):
    config = compose_config("trainer.max_epochs=5", "optim.lr=1")
    _ = config.optim.lr
    with pytest.raises(ConfigError, match=r"^trainer\.max_epochs: set, but nothing uses it"):
        refuse_unread_keys(config, ["trainer.max_epochs=5", "optim.lr=1"])
    _ = config.trainer.max_epochs
    refuse_unread_keys(config, ["trainer.max_epochs=5", "++optim.lr=1"])


def test_writing_the_config_is_no_use_of_it(compose_config):
    config = compose_config()
    dump_config(config)
    with pytest.raises(ConfigError, match="seed"):
        refuse_unread_keys(config, ["seed=1"])


def test_groups_and_deletions_are_not_audited(compose_config):
    overrides = ["peft=lora", "logger=csv", "~logger.csv", "~peft.r", "hydra.job.chdir=false"]
    refuse_unread_keys(compose_config(), overrides)


def test_did_you_mean_is_silent_where_nothing_is_close():
    assert did_you_mean("zzz", ["alpha"]) == ""
    assert did_you_mean("alhpa", ["alpha"]) == "; did you mean 'alpha'?"


@pytest.mark.parametrize("name", ["", ".", "/abs", "../../x", "a/../../b"])
def test_a_run_lies_under_the_output_folder(name: str):
    with pytest.raises(ConfigError, match=r"^name: expected a folder name under <output_dir>/runs"):
        RunConfig(name=name)
    assert RunConfig(name="paper/ü 1").name == "paper/ü 1"
