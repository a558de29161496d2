"""Worker processes that train and distil, one or several in parallel."""
