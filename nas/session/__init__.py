"""From the options of a command to something that runs."""
