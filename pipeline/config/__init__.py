"""From YAML to objects: compose, check and build a job; ``build.build_job`` is the entry."""
