"""Where the metrics of a valuation run go besides its own files; one file per logger."""
