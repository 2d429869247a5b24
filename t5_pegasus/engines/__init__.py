"""Engines: encoder and cached decoder step of a model behind one protocol, `search.Engine`."""
