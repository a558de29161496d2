"""Training processes, and how several work side by side."""
