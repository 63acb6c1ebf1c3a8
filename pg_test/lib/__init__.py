"""What the server tests share: servers, vectors, exact search."""
