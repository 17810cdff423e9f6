"""Results as HTML pages that are whole in themselves: the document, its parts, and its plots."""
