"""The DIMSE gateway: DICOM messages on one side, the archive and the index on the other."""
