//! The failures that a request through the intake can meet, as seen there.
