"""The ways in which a guest comes to its state right after boot.

A module of its own: the plugin needs these words in every pytest run, and nothing else of this
package.
"""

# From a snapshot, by a boot, or left in that state by the test before.
FRESH = ("restore", "boot", "share")
