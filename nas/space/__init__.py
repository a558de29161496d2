"""Search spaces and variants: what may be swapped for what."""
