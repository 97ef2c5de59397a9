"""What a run shows: tables and figures, made from its steps."""
