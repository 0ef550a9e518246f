"""Curation: from captured records to a dataset that may be trained on and trusted for a test."""
