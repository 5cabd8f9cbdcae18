//! The program; all of it is in the library, which tests use, too.

use std::process::ExitCode;

fn main() -> ExitCode {
    godwit_hosted::main()
}
