"""The paper's mathematics: process, schedules, predictions, weightings, objective, theorem.

Importing any part of this package registers its classes with the codec (`names`).
"""

from elbos.theory import names as names
