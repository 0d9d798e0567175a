"""Does dropout help, with which p, by how much? `python -m examples.sweep --help`.

Needs scikit-learn, matplotlib and tqdm.
"""
