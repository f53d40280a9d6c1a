"""Kernels past one machine's memory: in tiles of your choice, on several devices, on a disk, and regression with them.

Doors: `gram.py` (matrices for many points), `store.py` (on a disk), `regression.py` (solved from there), `blocks.py`
(`Recomputed`, kept nowhere). Plumbing: `disk_arrays.py`.
"""
