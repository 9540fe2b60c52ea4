"""Again and again over a folder, as files arrive."""
