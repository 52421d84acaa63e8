"""The embedded base model `tiny`, its task `tickets` and two sets to measure on: a first run needs no network."""
