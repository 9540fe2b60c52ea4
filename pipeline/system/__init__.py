"""Access to the operating system: files, descriptors, devices, processes, memory."""
