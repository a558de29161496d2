"""How a proxy is trained: recipe, trainer, checkpoints, scores."""
