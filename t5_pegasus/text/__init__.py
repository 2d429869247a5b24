"""Text to token ids and back: words, sentences, vocabularies, the tokenizer.

A new tokenizer is a module here, with the methods of `protocol.Tokenizer`. Nothing here knows a network, and nothing
imports TensorFlow.
"""
