"""Speed-ups that compute with fewer digits than float32."""
