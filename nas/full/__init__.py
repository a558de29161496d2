"""Full trainings: from a ranking to a trained model, with the host's own training."""
