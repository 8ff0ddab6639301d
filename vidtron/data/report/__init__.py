"""A page to look at a dataset: one HTML file of an index of shards, see `tools/report_dataset.py`.

statistics: figures and histograms of the columns. tables: columns of a curation table. planned: what a run would use.
cards: sampled clips with their thumbnails. page: all of it as HTML.
"""
