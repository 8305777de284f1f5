"""vm-configs: read with file, line and column, checked, and expanded into cells."""
