"""What others made: files, JSON, ELF files and archives, checked before they are used."""
