"""The HTTP interface of a service: routes, limits, access; needs the extra ``serve``."""
