"""An executor whose work is done by workers on several devices, or machines."""
