"""Trains and measures palmita: facts and phrasings in, a model folder and a table out."""
