"""Reports: finished workdirs side by side, as Markdown, CSV and a plot."""
