"""What runs on a work pool: refreshing a corpus, training an adapter."""
