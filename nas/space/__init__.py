"""Search spaces: named layers, slots with their choices, and variants."""
