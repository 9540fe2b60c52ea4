"""What touches the operating system: files, descriptors, devices, processes, memory."""
