//! `cellos`, the command line. Called `cellos-supervisor`, through a link, it is the drop-in.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cellos::main(cellos::Face::from_program_name())
}
