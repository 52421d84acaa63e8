"""A configuration file is data: what its targets may name."""

import sys

import peft
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, Logger

from tunelab import components
from tunelab.components import ALLOWED_MODULES, build_component, resolve_target
from tunelab.config import OptimConfig
from tunelab.errors import ConfigError
from tunelab.model.adapter import build_peft_config
from tunelab.training.loggers import build_loggers
from tunelab.training.optim import build_optimizer

KINDS = {
    "peft": peft.PeftConfig,
    "optim.optimizer": torch.optim.Optimizer,
    "optim.rest": torch.optim.Optimizer,
    "logger": Logger,
}
DANGEROUS = [
    "os.system", "os.popen", "os.execv", "os.remove", "posix.system", "subprocess.run", "subprocess.Popen",
    "builtins.eval", "builtins.exec", "builtins.__import__", "builtins.open", "builtins.getattr",
    "importlib.import_module", "runpy.run_path", "pickle.loads", "pickle.load", "shutil.rmtree",
    "pathlib.Path", "pathlib.Path.write_text", "pathlib.Path.unlink", "ctypes.CDLL", "socket.socket",
    "urllib.request.urlretrieve", "webbrowser.open", "code.interact", "torch.load", "torch.hub.load",
    "torch.jit.load", "torch.utils.cpp_extension.load", "torch.ops.load_library", "numpy.load", "joblib.load",
    "yaml.unsafe_load", "hydra.utils.instantiate", "hydra._internal.utils._locate", "peft.os.system",
    "peft.LoraConfig.from_pretrained", "peft.tuners.lora.os.system", "peft.utils.save_and_load.torch.load",
    "torch.optim.torch.load", "torch.optim.Optimizer.__subclasses__", "bitsandbytes.optim.torch.load",
    "pytorch_lightning.loggers.os", "pytorch_lightning.loggers.logger", "pytorch_lightning.loggers.os.system",
    "pytorch_lightning.cli.LightningCLI", "lightning.Trainer", "transformers.AutoModel.from_pretrained",
    "..os.system", "os", "", ".", "peft", "peft.", ".LoraConfig", "peft.__class__", "peft.LoraConfig()",
    "peft .LoraConfig", "peft.LoraConfig\n", "PEFT.LoraConfig", "None",
]  # fmt: skip


@pytest.mark.parametrize("slot", KINDS)
@pytest.mark.parametrize("target", DANGEROUS)
def test_a_target_outside_the_list_is_refused(target: str, slot: str):
    with pytest.raises(ConfigError, match=rf"^{slot}\._target_: "):
        resolve_target(target, slot, KINDS[slot])


@pytest.mark.parametrize("slot", KINDS)
@pytest.mark.parametrize("target", ["tunelab_trap.Class", "peft.tunelab_trap.Class", "torch.optim.tunelab_trap.Class"])
def test_nothing_is_imported_before_the_refusal(target: str, slot: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tunelab_trap.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    imported: list[str] = []
    monkeypatch.setattr(components.importlib, "import_module", lambda name: imported.append(name))
    before = set(sys.modules)
    with pytest.raises(ConfigError):
        resolve_target(target, slot, KINDS[slot])
    assert imported == []
    assert "tunelab_trap" not in sys.modules
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("slot", "target", "expected"),
    [
        ("peft", "peft.LoraConfig", peft.LoraConfig),
        ("optim.optimizer", "torch.optim.AdamW", torch.optim.AdamW),
        ("logger", "pytorch_lightning.loggers.CSVLogger", CSVLogger),
    ],
)
def test_a_listed_class_is_found(slot: str, target: str, expected: type):
    assert target.rpartition(".")[0] in ALLOWED_MODULES[slot]
    assert resolve_target(target, slot, KINDS[slot]) is expected


@pytest.mark.parametrize(
    ("slot", "target", "message"),
    [
        ("peft", "peft.PeftModel", "is no PeftConfig of peft"),
        ("peft", "peft.get_peft_model", "is no PeftConfig of peft"),
        ("peft", "peft.LoraConfg", "did you mean 'LoraConfig'"),
        ("optim.optimizer", "torch.optim.lr_scheduler", "is no Optimizer of torch.optim"),
        ("optim.optimizer", "torch.optim.AdamV", "did you mean 'Adam"),
        ("logger", "pytorch_lightning.loggers.Logger", "is no Logger of pytorch_lightning.loggers"),  # abstract
        ("logger", "torch.optim.AdamW", "expected a class of pytorch_lightning.loggers"),  # of another slot
        ("peft", "peft.LoraModel", "is no PeftConfig"),
    ],
)
def test_the_wrong_kind_is_refused(slot: str, target: str, message: str):
    with pytest.raises(ConfigError) as caught:
        resolve_target(target, slot, KINDS[slot])
    assert message in str(caught.value)
    assert repr(target) in str(caught.value)


def test_an_unknown_argument_gets_a_suggestion():
    with pytest.raises(
        ConfigError, match=r"^peft\.lora_alpa: LoraConfig has no such argument; did you mean 'lora_alpha'\?"
    ):
        build_peft_config({"_target_": "peft.LoraConfig", "lora_alpa": 3})
    with pytest.raises(ConfigError, match=r"^optim\.optimizer\.qqq: AdamW has no such argument; remove it\.$"):
        build({"_target_": "torch.optim.AdamW", "qqq": 1})


def build(node: dict) -> torch.optim.Optimizer:
    return build_optimizer(OptimConfig(optimizer=node), torch.nn.Linear(1, 1), 0.1, False)


@pytest.mark.parametrize(("text", "meant"), [("no", "false"), ("On", "true")])
def test_a_text_is_no_truth_value(text: str, meant: str):
    node = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "nesterov": text}
    said = rf"^optim\.optimizer\.nesterov: expected true or false, found '{text}'; set .*\.nesterov={meant}"
    with pytest.raises(ConfigError, match=said):
        build_component(node, "optim.optimizer", torch.optim.Optimizer, [torch.zeros(1)])


def test_a_value_the_class_refuses_is_quoted(tmp_path):
    with pytest.raises(ConfigError, match=r"^optim\.optimizer\.betas: AdamW refused its arguments, found \[2"):
        build({"_target_": "torch.optim.AdamW", "betas": [2.0, 0.9]})
    with pytest.raises(ConfigError, match=r"^peft\.layers_pattern: LoraConfig refused its arguments, found 'layers'"):
        build_peft_config({"_target_": "peft.LoraConfig", "layers_pattern": "layers", "target_modules": ["q_proj"]})
    with pytest.raises(ConfigError, match=r"^logger._target_: "):
        build_loggers({"mine": {"_target_": "os.system"}}, tmp_path)


def test_arguments_reach_the_class():
    config = build_component(
        {"_target_": "peft.LoraConfig", "r": 3, "target_modules": ["q_proj"]},
        "peft",
        peft.PeftConfig,
        task_type="CAUSAL_LM",
    )
    assert isinstance(config, peft.LoraConfig)
    assert (config.r, config.target_modules, config.task_type) == (3, {"q_proj"}, "CAUSAL_LM")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    def refuse(self, *args, **kwargs):
        raise ModuleNotFoundError("No module named 'neptune'")

    monkeypatch.setattr(CSVLogger, "__init__", refuse)
    with pytest.raises(ConfigError, match="CSVLogger needs a package that is missing: No module named 'neptune'"):
        build_component({"_target_": "pytorch_lightning.loggers.CSVLogger"}, "logger", Logger)
