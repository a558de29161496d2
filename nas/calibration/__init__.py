"""Which proxy to trust."""
