"""The service on several machines: replicas in processes of Ray Serve, and a front for clients."""
