"""Names and arrays on disk: no framework, nothing in a file is ever executed, nothing is left half-written.

``atomic``          files that appear complete or not at all
``folders``         the same for folders
``destination``     where an output path leads: behind links, or to a device
``regular``         files that are read only where they are files, up to a size
``limited_pickle``  an unpickler that builds stand-ins, in bounded steps and memory
``pdparams``        Paddle's pickle of arrays: streamed out, read through an allow-list
``tensors``         safetensors as read-only views of the file
``values``          which arrays can be weights
``npy``             numpy's own format, written with the system's own errors
``manifest``        the sidecar that says where every tensor came from, and proves that it is still the same
``json_record``     records in JSON, read with limits and held against a type
``json_text``       JSON without the numbers that JSON lacks
``csv_text``        tables without cells that a spreadsheet would compute
``shown``           names from files as text for people
"""
