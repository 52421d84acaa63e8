"""tunelab: fine-tune causal language models with PEFT, and be able to defend the numbers."""

__version__ = "0.1.0"
