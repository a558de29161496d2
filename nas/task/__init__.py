"""The tasks of the host's models: what differs between them, as one object for each."""
