"""Data files; no code lives here."""
