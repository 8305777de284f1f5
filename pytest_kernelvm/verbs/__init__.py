"""The verbs of the command `kernelvm`, one module a room."""
