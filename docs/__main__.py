"""`python -m docs` writes the generated parts of the pages; a test says when that was forgotten."""

from docs.pages import fresh, pages

for page in pages():
    page.write_text(fresh(page), encoding="utf-8")
