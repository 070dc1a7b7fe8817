//! The `lockstep` binary: parse, load, run.

fn main() -> std::process::ExitCode {
    lockstep::cli::main()
}
