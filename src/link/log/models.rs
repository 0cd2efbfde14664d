//! Loom models of the log: the shipped types, every interleaving.
