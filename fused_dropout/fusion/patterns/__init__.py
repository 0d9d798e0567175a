"""The patterns: a file or folder for each library whose modules can be fused.

``torch_nn/`` is imported with this package. The others have the name of their library
(``hugging_face/`` is that of transformers), and ``fuse`` imports them if the library is imported.
All files of a folder are imported, so a new file needs no other change.
"""
