"""Jinja templates and named-layer bases. No code lives here."""
