"""Who is blocked, and what detectors do."""
