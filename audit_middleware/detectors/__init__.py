"""What the committed log shows: rules over records, with the same result while it grows and afterwards."""
