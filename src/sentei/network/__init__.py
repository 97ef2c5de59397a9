"""What can be cut, and the cutting: units, tracing, masks, surgery, certificates, sizes."""
