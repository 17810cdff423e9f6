"""General tools that are independent of diffusion: files, messages, checks, tables, pages."""
