"""The page on which people judge a run's sample: NiceGUI, on this machine, with nothing fetched from elsewhere."""
