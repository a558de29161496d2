"""The yardstick: the baseline pruned uniformly, what a user would do instead of a search for the same GFLOPs."""
