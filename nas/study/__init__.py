"""What a search stores."""
