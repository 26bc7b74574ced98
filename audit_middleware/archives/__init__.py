"""Places for immutable objects."""
