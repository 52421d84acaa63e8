"""What fine-tuning changed: losses, completions and scores of base and tuned models."""
