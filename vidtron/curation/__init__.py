"""From raw videos to a table of clips with measurements and captions, one step at a time: tools/curate is its command
line, tools/build_shards.py takes the last table."""
