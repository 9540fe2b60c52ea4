"""What all runners on Ray share: the connection, and how a job is built in another process."""
