"""Sources: what a configuration names becomes rows, read a little at a time, each with its place."""

from tunelab.data.sources.opening import Source, evaluation_source, training_sources

__all__ = ["Source", "evaluation_source", "training_sources"]
