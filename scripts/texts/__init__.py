"""A text model whose requests differ in length: MiniLM's encoder, served padded and as it is."""
