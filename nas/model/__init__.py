"""From a variant to a model of Ultralytics, and what it costs."""
