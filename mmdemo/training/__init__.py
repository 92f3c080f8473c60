"""Two training loops, each a generator of Records: the caller owns progress, stopping and drawing."""
