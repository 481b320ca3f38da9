"""Values that every module agrees on."""

CLEAR, CLOUD, NODATA = 0, 1, 255
"""Values of a mask and of a label (where 255 also means: not to be scored)."""

FLAG_MEANINGS = {CLEAR: "clear", CLOUD: "cloud", NODATA: "nodata"}
"""CF ``flag_meanings``, and the category names of a mask file."""

CHUNK, FLOAT_CHUNK = 3840, 3456
"""Default chunk height and width, pixels of the grid that the network sees, of scenes in uint8 and
in float32, where pixels take four times the memory: a halo of 224 pixels costs 25 or 28 %
more."""

LONGEST_CHUNK = 5120
"""Longest chunk of a scene in uint8 whose longer side two such chunks cover: the fewer chunks, the
more a longer one saves. In larger scenes it would save a twentieth of the time, and memory would
grow with the scene."""

BLOCK = 512
"""Tile height and width inside a COG (https://cogeo.org's and GDAL's default)."""

GDAL_CACHE = 128 * 2**20
"""Bytes of decoded blocks that GDAL keeps, per process; by default it would take 5 % of memory."""

HIGHEST_SEED = 2**32 - 1
"""Of a sample or a training run."""
