"""The page: one form, one result, one history. A function `build` makes it; importing makes nothing."""
