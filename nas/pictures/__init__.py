"""Pictures of what two trained models detect: the validation images on which a baseline and a winner differ most."""
