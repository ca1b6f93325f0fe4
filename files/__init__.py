"""Files on disk: open weights, read and written, and tokenizer files."""
