"""The search loop: decides what a worker does next, and runs it."""
