"""The swap bank: candidates of every slot distilled from a trained baseline, and the cache of both."""
