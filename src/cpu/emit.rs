//! Nests in CLIF.
