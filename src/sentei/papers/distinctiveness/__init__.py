"""Units whose activations point the same way are merged, without retraining (Zheng 2018)."""
