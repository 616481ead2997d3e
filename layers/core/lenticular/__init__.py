"""Lenticular: a serverless, cloud-backed DICOM node.

This package holds what the gateway and the functions share: the rules of the archive, its index,
its queries and its settings. It opens no socket and answers no DIMSE message.
"""

from typing import Final

__version__: Final = "0.1.0"

#: Who wrote a file or opened an association, PS3.7 D.3.3.2. A UUID-derived UID (PS3.5 B.2) that
#: stays the same for the life of the project.
IMPLEMENTATION_CLASS_UID: Final = "2.25.144644937545052875892716787475201870585"
#: At most 16 characters, PS3.7 D.3.3.2.3.
IMPLEMENTATION_VERSION_NAME: Final = "LENTICULAR_010"
