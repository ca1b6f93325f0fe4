"""What is on disk: open weights in and out, and tokenizer files."""
