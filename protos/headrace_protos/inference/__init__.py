"""Generated modules, in the folders of their .proto sources."""
