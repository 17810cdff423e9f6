"""Tools that know nothing of diffusion: files, messages, checks, tables, pages."""
