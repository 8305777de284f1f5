"""What somebody else made: files, JSON and archives, checked before anything is done."""
