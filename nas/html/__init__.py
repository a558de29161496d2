"""The report of a study as one HTML page, and its parts as Markdown, JSON and PNG."""
