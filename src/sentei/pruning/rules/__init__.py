"""Say what to remove next, how fast, and until when. Imports `criteria`, `probe` and `network`."""
