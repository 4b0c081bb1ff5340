"""Makers of the site's pages: Markdown of what the source says, one maker a file."""
