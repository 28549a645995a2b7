"""A text model whose requests differ in length: MiniLM's encoder, served with and without padding."""
