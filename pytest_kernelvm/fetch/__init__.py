"""How sources and packages get here: downloads, archives, Debian, RPM, patches, copies."""
