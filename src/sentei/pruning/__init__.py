"""How fast, until when, and the loop in the open."""
