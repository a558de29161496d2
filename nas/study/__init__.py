"""Studies: the settings and trials of a search, stored in SQLite or PostgreSQL so that it can resume."""
