"""The command `kernelvm`: one module for each group of verbs."""
