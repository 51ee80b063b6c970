"""Readers of data sets: files on disk become arrays for training and encoded pictures for scoring.

A reader knows the layouts its data set comes in and refuses what is missing or broken by naming the file; what the
pixels are used for is the recipe's business.
"""

from training.data.errors import BrokenData

__all__ = ["BrokenData"]
