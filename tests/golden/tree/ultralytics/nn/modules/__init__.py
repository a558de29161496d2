"""Where a patch puts its module file."""
