"""Stand-ins for a trainer and a module, for callbacks that are called by hand."""

from types import SimpleNamespace

from tunelab.training.module import CausalLMModule


def trainer_at(step: int, **more):
    defaults = {"global_step": step, "is_global_zero": True, "world_size": 1, "loggers": [], "should_stop": False}
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    return SimpleNamespace(**{**defaults, "strategy": strategy, **more})


def validated(loss: float, **figures: float) -> CausalLMModule:
    module = CausalLMModule.__new__(CausalLMModule)
    module.__dict__["validation_metrics"] = {"val/loss": loss, **figures}
    return module
