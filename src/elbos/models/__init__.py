"""Networks, and what denoisers are used for: samples (`samplers`) and bits per dimension
(`likelihood`).
"""
