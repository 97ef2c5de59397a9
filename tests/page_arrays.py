"""Read the arrays of a page, as its script does."""

import base64

import numpy as np


def unpacked(form):
    """Decode a packed array, as `assets/decoding.js` does."""
    values = np.frombuffer(base64.b64decode(form["d"]), "<" + form["t"])
    if "m" in form:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(form["m"]), "u1"), bitorder="little")
        whole = np.zeros(int(np.prod(form["n"])), values.dtype)
        whole[bits[: whole.size] == 1] = values
        values = whole
    return values.reshape(form["n"])
