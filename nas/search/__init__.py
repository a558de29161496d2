"""The search loop: what is next, and who does it."""
