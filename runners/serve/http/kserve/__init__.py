"""The Open Inference Protocol (KServe v2): its routes, requests and outputs."""
