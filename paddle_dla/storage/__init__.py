"""Names and arrays on disk: no framework, nothing in a file is ever executed, nothing is left half-written.

``atomic``          files that appear complete or not at all
``folders``         the same for folders
``destination``     where an output path leads: behind links, or to a device
``regular``         files that are read only where they are files, up to a size
``limited_pickle``  an unpickler that builds stand-ins, in bounded steps and memory
``pdparams``        Paddle's pickle of arrays: streamed out, read through an allow-list
``tensors``         safetensors as read-only views of the file
``manifest``        the sidecar that says where every tensor came from, and proves that it is still the same
``shown``           names from files as text for people
"""
