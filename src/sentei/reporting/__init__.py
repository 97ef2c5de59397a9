"""What a run shows: tables, figures and a page, made from what is kept of it."""
