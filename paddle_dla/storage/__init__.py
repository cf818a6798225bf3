"""Names and arrays on disk: no framework, nothing in a file is executed, nothing is left half-written.

``atomic``          files that appear complete or not at all
``folders``         the same for folders
``destination``     where an output path leads: behind links, or to a device
``regular``         reads regular files only, up to a size
``limited_pickle``  an unpickler that builds stand-ins, in bounded steps and memory
``pdparams``        Paddle's pickle of arrays: streamed out, read through an allow-list
``tensors``         safetensors as read-only views of the file
``values``          which arrays can be weights
``npy``             numpy's own format, with the system's own errors
``manifest``        the sidecar with the origin and the checksum of every tensor
``json_record``     records in JSON, read with limits and validated against a type
``json_text``       JSON without the numbers that JSON lacks
``csv_text``        tables without cells that a spreadsheet would compute
``shown``           names from files as safe text
"""
