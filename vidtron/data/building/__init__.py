"""From clips to shards with an index."""
