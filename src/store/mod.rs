//! What must survive: atomic writes, checksums, one writer.
