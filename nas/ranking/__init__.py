"""Statistics of trials: ranking, racing, significance tests, effects."""
