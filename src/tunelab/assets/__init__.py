"""The embedded base model `tiny` and data set `tickets`: a first run needs no network."""
