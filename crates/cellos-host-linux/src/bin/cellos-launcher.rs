//! The launcher as a program of its own, for embedders whose own executable cannot be executed
//! again, such as test programs.
#![forbid(unsafe_code)]

fn main() {
    cellos_isolation::Launcher::take_over_if_asked();
    eprintln!("cellos-launcher: started by a backend, not by hand");
    std::process::exit(2);
}
