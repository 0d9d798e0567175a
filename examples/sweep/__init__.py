"""Does dropout help, with which p, and by how much? `python -m examples.sweep --help`.

It needs scikit-learn, matplotlib and tqdm.
"""
