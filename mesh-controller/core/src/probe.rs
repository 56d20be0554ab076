//! How a probe is read.
