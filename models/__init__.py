"""The embedded base models, pretrain.py, which made them, and open_weights.py, which fetches a chat model."""
