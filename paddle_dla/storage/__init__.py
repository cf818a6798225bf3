"""Names and arrays on disk: no framework, nothing in a file is ever executed, nothing is left half-written.

``atomic``    files that appear complete or not at all
``regular``   files that are read only where they are files, up to a size
``pdparams``  Paddle's pickle of arrays: streamed out, read through an allow-list
``tensors``   safetensors as read-only views of the file
``values``    which arrays can be weights
``manifest``  the sidecar that says where every tensor came from, and proves that it is still the same
``json_text`` JSON without the numbers that JSON lacks
"""
