"""What was learned, in the files of other tools; each export is loaded again and compared before it counts."""
