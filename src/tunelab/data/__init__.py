"""From files to micro-batches: rows, examples, rendered text, token ids with a loss mask."""
