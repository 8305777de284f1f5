"""YAML that is read by rows: one for each key, with its type, its check and its documentation."""
