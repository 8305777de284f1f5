"""What all tests of this repository share."""

from hypothesis import settings

pytest_plugins = ["pytester"]

# On a busy machine an example takes as long as it takes.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
