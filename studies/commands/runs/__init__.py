"""Commands on run folders, whatever they hold: all of them as one list, and the shards of one work joined."""
