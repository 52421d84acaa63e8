"""The optimizer step: objective, loss, schedule, checkpoints, and the Lightning trainer around them."""
