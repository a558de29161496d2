"""What trials say: ranking, verdicts, effects."""
