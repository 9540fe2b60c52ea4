"""What stands between clients and the routes: access, limits, connections, errors."""
