"""A report over runs: from run folders, and nothing else, to tables, statistics and figures that can be published."""
