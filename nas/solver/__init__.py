"""The exact solver: facts about single swaps, what they predict for combinations, and the best ones under a budget."""
