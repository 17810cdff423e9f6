"""How results look: numbers, tables, figures and pages, on the terminal and in the browser."""
