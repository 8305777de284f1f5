"""The guest as tests see it: Vm, its console, recordings of the console."""
