"""Sessions: from the options of a command to an object that is ready to run."""
