"""The store: what is in it, how it is written, read, checked and removed; remote stores."""
