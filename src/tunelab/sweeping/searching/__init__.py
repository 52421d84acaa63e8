"""A search in place of a grid: trials that a sampler proposes one after another, from the results so far."""
