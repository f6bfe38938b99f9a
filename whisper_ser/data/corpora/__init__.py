"""One module for each published corpus, and readers of tables and manifests."""
