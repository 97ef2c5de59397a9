"""Somebody else owns the loop: callbacks for Keras and Lightning, each an extra."""
