//! PID 1 of a microVM.
//!
//! It boots the machine ([`boot`]), says hello to the host over the bridge ([`dial`]), waits there
//! until it is told what to run, and has the cell built by a launcher of `cellos-isolation`, as
//! the `linux` backend does on a host ([`session`]). One thread, one poll loop, no runtime.
//!
//! The same session runs as an ordinary process on a host, on a descriptor that it inherits: for
//! tests, and for a monitor that boots nothing.

pub mod boot;
pub mod dial;
pub mod machine;
pub mod run;
pub mod session;
