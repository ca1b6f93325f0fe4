"""What makes sampling and training fast. The plain forms stand in the core files, and tests hold the two together."""
