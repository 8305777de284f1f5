"""How a kernel is entered: layout, device tree, first stage, U-Boot, root, kexec."""
