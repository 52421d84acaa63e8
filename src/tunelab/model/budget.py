"""Adapters that move their rank between layers while they train (AdaLoRA): what a step needs, and their state.

Zhang et al. 2023: ranks start at `init_r`, are pruned by importance to `target_r` on average between `tinit` and
`total_step - tfinal`, and stay so. Whether an adapter does so is asked of the adapter itself, not of its name.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel

from tunelab.errors import ConfigError

UNKNOWN_STEPS = 2**31  # stands in where the number of steps is not known yet
STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # running sums of each weight's importance, PEFT's names


def stand_ins(given: Mapping[str, Any]) -> dict[str, int]:
    """Values for those of PEFT's three keys that are not given, which it checks before the number of steps is known."""
    total = given.get("total_step") or UNKNOWN_STEPS
    return {"total_step": total, "tinit": total // 10, "tfinal": total // 2}


def plans_budget(config: Any) -> bool:
    """True where the adapter moves its rank while it trains."""
    return hasattr(config, "total_step")


def plan_budget(config: Any, total_steps: int) -> None:
    """Where not given, fill in the number of steps, and that pruning takes place between a tenth and half of them.

    Raises:
        ConfigError: the run has too few steps for it, or there is nothing to prune.
    """
    if not plans_budget(config):
        return
    if config.total_step == UNKNOWN_STEPS:
        usual, own = stand_ins({}), stand_ins({"total_step": total_steps})
        for key in own:
            if getattr(config, key) == usual[key]:
                setattr(config, key, own[key])
    start, end = config.tinit, config.total_step - config.tfinal
    if config.total_step > total_steps or not 0 <= start < end or end < 2:
        raise ConfigError(
            f"peft.total_step: expected at most the {total_steps} steps of the run, with step 2 or later between "
            f"peft.tinit and peft.tfinal steps before its end, found total_step={config.total_step}, tinit={start}, "
            f"tfinal={config.tfinal}; remove these keys, or lengthen the run."
        )
    if config.init_r <= config.target_r:
        raise ConfigError(
            f"peft.init_r: expected more than peft.target_r={config.target_r}, found {config.init_r}; "
            "set peft.init_r=<rank>."
        )


def prune_ranks(model: Any, num_steps: int) -> None:
    """After `num_steps` optimizer steps, with the last one's gradients still there: weigh, and prune to the budget."""
    tuner = _tuner(model)
    if tuner is not None:
        tuner.update_and_allocate(num_steps)


@torch.enable_grad()
def add_regularizer_gradients(model: Any) -> None:
    """Add the gradient of AdaLoRA's orthogonal regulariser, weight * mean of |P P^T - I| over all factors P.

    Once a step, to the finished gradient: PEFT adds it to the loss that it computes itself, which is not computed here.
    """
    tuner = _tuner(model)
    if tuner is None or not model.active_peft_config.orth_reg_weight:
        return
    penalties = [
        torch.linalg.norm(products - torch.eye(len(products), device=products.device))
        for name, factor in tuner.named_parameters()
        if factor.requires_grad and (".lora_A." in name or ".lora_B." in name)
        for products in (factor @ factor.T if ".lora_A." in name else factor.T @ factor,)
    ]
    (model.active_peft_config.orth_reg_weight * torch.stack(penalties).mean()).backward()


def budget_state(model: Any) -> dict[str, Any] | None:
    """What resuming needs besides the trained weights: importance sums, and which ranks are left."""
    tuner = _tuner(model)
    if tuner is None:
        return None
    sums = {name: dict(getattr(tuner.rankallocator, name)) for name in STATE}
    return {**sums, "rank_pattern": model.active_peft_config.rank_pattern}


def restore_budget(model: Any, state: dict[str, Any] | None) -> None:
    """Put back what `budget_state` gave."""
    tuner = _tuner(model)
    if tuner is None or state is None:
        return
    parameters = dict(tuner.model.named_parameters())
    for name in STATE:
        sums = {key: value.to(parameters[key].device) for key, value in state[name].items()}
        setattr(tuner.rankallocator, name, sums)
    model.active_peft_config.rank_pattern = state["rank_pattern"]


def settle_ranks(model: Any) -> None:
    """Before the export: the ranks that are left are those whose weight is not zero, in these very weights.

    PEFT's own record is that of the last pruning, which the best weights of a run may be older than.
    """
    tuner = _tuner(model)
    if tuner is not None and model.active_peft_config.rank_pattern:
        values = {name: p for name, p in tuner.model.named_parameters() if ".lora_E." in name}
        pattern = {name.rpartition(".")[0]: (p != 0).view(-1).tolist() for name, p in values.items()}
        model.active_peft_config.rank_pattern = pattern


def _tuner(model: Any) -> Any:
    """PEFT's part of the model where it allocates ranks, else None."""
    tuner = model.base_model if isinstance(model, PeftModel) else None
    return tuner if hasattr(tuner, "update_and_allocate") else None
