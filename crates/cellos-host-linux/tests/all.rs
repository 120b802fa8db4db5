//! The Linux backend on a real kernel.

mod running;
mod support;
