"""Pages that one file holds: a template filled in, one style for all of them, and plots as SVG; no request is made."""
