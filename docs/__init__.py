"""The pages for users, and what writes their generated parts: `python -m docs`."""
