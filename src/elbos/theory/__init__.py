"""The paper's mathematics: process, schedules, predictions, weightings, objective, theorem.

Importing any part of it tells the codec the tables of its classes (`names`).
"""

from elbos.theory import names as names
