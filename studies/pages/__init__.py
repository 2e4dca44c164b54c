"""Pages of what joins several packages: results in, pages out."""
