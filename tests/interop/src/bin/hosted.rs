//! `godwit-hosted`, built together with the tests that use it.

use std::process::ExitCode;

fn main() -> ExitCode {
    godwit_hosted::main()
}
