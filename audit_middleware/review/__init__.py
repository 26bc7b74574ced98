"""The periodic review of a log: what happened in a period, as a checklist by controls. Read by the command `review`."""
