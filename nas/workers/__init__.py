"""Training processes, and running several in parallel."""
