"""From a variant to a PyTorch model: render its YAML, build it with Ultralytics, measure its cost."""
