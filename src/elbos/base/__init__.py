"""What knows nothing of diffusion: files, messages, checks, tables, pages."""
