//! The published exit frame and boot command line.
