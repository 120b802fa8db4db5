//! The real programs, run as a user runs them.

mod docs;
mod drop_in;
mod examples;
mod help;
mod program;
mod refusals;
mod run;
mod validate;
