//! `cellos-supervisor`: one document in, one cell, 0 or 1 out, configured by variables.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cellos::main(cellos::Face::DropIn)
}
