//! Stand-ins for Firecracker and its jailer, for tests only: the same command lines, the same
//! management interface and the same sockets, but the "guest" is an ordinary process.
//!
//! [`vmm`] is the program `fake-firecracker`, [`jailer`] the program `fake-jailer`, [`guest`] what a
//! guest calls to reach its vsock device, [`outside`] runs guests beside a test, [`settings`] how a test says what the guest is and what
//! shall go wrong. The crate's README lists what is modelled and what cannot be.

pub mod guest;
pub mod jailer;
pub mod outside;
pub mod programs;
pub mod settings;
pub mod vmm;
