"""Terminal output: tables, notes, progress and JSON."""
