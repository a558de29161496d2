"""Output: write a variant as files that train without this tool."""
