"""A base model and data small enough for every test: random weights, a byte-level BPE trained on the spot."""

import copy
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: the models are tiny, and threads that wait for each other by spinning stall a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunelab.config import EvaluateConfig, RunConfig, forget_reads, mark_read

REPOSITORY = Path(__file__).resolve().parents[1]
SCHEMAS = {"train": RunConfig, "evaluate": EvaluateConfig}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["what is two plus three? five. the answer is"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer_size: int, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,  # attention that matters: examples that saw each other would show
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal() -> None:
    """`nohup` and background shells hand down ignored signals, which tunelab then leaves ignored."""
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with tokenizer on disk."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty question and answer rows of ragged length."""
    rows = [
        {
            "prompt": f"what is {a} plus {b}?" + " please" * (a % 4),
            "response": f"the answer is {a + b}" + "." * (b % 7),
        }
        for a in range(10)
        for b in range(6)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def compose_config() -> Callable[..., Any]:
    """Compose what `python train.py <overrides>` would, into plain dataclasses.

    Each choice of groups is composed once and values are set on copies, as sweeps do it (and test that Hydra does).
    """

    from hydra import compose, initialize_config_dir  # here: the machine of tests/gpu has no Hydra
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from tunelab.compose import prepare_arguments, to_config

    store = ConfigStore.instance()
    hydras_own, stores = store.repo, {}
    for schema in (RunConfig, EvaluateConfig):  # apart: each composition copies all of the store
        store.repo = dict(hydras_own)
        store.store(name="evaluate_schema" if schema is EvaluateConfig else "run_schema", node=schema)
        stores[schema] = store.repo
    by_groups: dict[tuple[str, ...], Any] = {}

    def node_of(command: str, folder: Path, overrides: list[str]) -> Any:
        hydra = GlobalHydra.instance().hydra
        assert hydra
        loader: Any = hydra.config_loader
        groups, values = [], []
        for each in OverridesParser.create(config_loader=loader).parse_overrides(overrides):
            is_group = loader.repository.group_exists(each.key_or_group) and not isinstance(each.value(), dict)
            (groups if is_group or each.key_or_group.startswith("hydra.") else values).append(each)
        chosen = [str(each.input_line) for each in groups]
        key = (command, str(folder), *chosen)
        if key not in by_groups or folder != REPOSITORY / "conf":  # other folders are written to
            by_groups[key] = compose(command, overrides=chosen)
        node = copy.deepcopy(by_groups[key])
        ConfigLoaderImpl._apply_overrides_to_config(values, node)
        return node

    def composed(*overrides: str, command: str = "train", folder: Path = REPOSITORY / "conf") -> Any:
        schema = SCHEMAS.get(command, RunConfig)
        store.repo = stores[schema]
        with initialize_config_dir(str(folder), version_base="1.3"):
            node = node_of(command, folder, prepare_arguments(list(overrides), schema))
        return to_config(node, schema)

    return composed


@pytest.fixture(scope="session")
def tiny_overrides(model_folder: Path, data_file: Path) -> list[str]:
    """Six steps of LoRA on the smallest model, without completions: about a second."""
    return [
        f"model.path={model_folder}", "data=file", f"data.path={data_file}", "data.validation_fraction=0.15",
        "data.test_fraction=0.1", "data.batch_size=8", "data.max_length=96", "trainer.max_steps=6",
        "trainer.val_every_steps=3", "trainer.log_every_steps=1", "trainer.num_sample_completions=0",
        "evaluation=loss", "evaluation.base=false", "optim.lr=1e-2", "optim.warmup_fraction=0", "logger=none",
        "trainer.micro_batch_tokens=128", "peft.r=4",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_config(compose_config: Callable[..., Any], tiny_overrides: list[str]) -> Callable[..., RunConfig]:
    """The configuration of a tiny run, with further overrides."""
    return lambda *overrides: compose_config(*tiny_overrides, *overrides)


@pytest.fixture(scope="session")
def run(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Fine-tune a tiny run with further overrides, in this process; returns its folder.

    `typed`: what the audit of unread keys takes for typed, where that is not the overrides.
    """
    from tunelab.compose import dump_config  # here: it needs Hydra
    from tunelab.finetune import fine_tune
    from tunelab.run import RunFolder

    def train(
        *overrides: str, folder: RunFolder | None = None, resuming: bool = False, typed: Sequence[str] | None = None
    ) -> RunFolder:
        config = tiny_config(*overrides)
        place = RunFolder(folder.path if folder else tmp_path_factory.mktemp("run"))
        place.write_text("config.yaml", dump_config(config))
        forget_reads(config)
        mark_read(config, "output_dir", "resume", "name")
        given = [each for each in overrides if not each.endswith("=null")] if typed is None else typed
        fine_tune(config, place, given, resuming)
        return place

    return train


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Type `train.py …`, or a command of tunelab, in `tmp_path`, without the seconds that a process takes to import.

    Jobs of sweeps have processes of their own, as always.
    """
    from hydra.core.config_store import ConfigStore

    from tunelab import cli

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it: taken back afterwards
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # the same of a sweep, and bits depend on it
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(each) for each in arguments]
        script = str(REPOSITORY / "train.py") if words[:1] == ["train.py"] else None
        monkeypatch.setattr(sys, "argv", [script, *words[1:]] if script else ["tunelab", *words])
        capfd.readouterr()
        try:
            runpy.run_path(script, run_name="__main__") if script else cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def quiet_environment() -> dict[str, str]:
    """The environment of a child process: one thread, no hub."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
