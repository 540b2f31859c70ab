"""Where bytes live: in a directory, in an object store, in whatever fsspec opens.

`Place` is what a store is read from and written to; a class that implements it is all that another
kind of place takes. `open_place` finds the place that a path or a URL means.
"""

from softtargets.places.directory import Directory
from softtargets.places.open_place import open_place, place_to_write
from softtargets.places.place import Place, ReadCounts

__all__ = ["Directory", "Place", "ReadCounts", "open_place", "place_to_write"]
