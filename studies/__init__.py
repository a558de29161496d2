"""Search spaces that ship with the tool. No code lives here."""
