"""The embedded base models, and pretrain.py, which made them."""
