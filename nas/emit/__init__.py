"""Files for somebody else's tree."""
