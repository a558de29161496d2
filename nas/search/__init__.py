"""The search loop: decide on the next training, run it, and store its result."""
