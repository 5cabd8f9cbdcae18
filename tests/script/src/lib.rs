//! Wire scripts: text files that say which segments come in, which must go out and when, and what
//! the application does meanwhile. `tests/scripts/README.md` describes the language.
//!
//! [`Script`] is a parsed file; [`run`] plays one against a real [`godwit_netstack::stack::Stack`]
//! with real frames in virtual time; [`judge`] plays it in every way it has to hold: over IPv4 and
//! IPv6, opened passively and actively, and with a move of the connection to another stack after
//! every line.
//!
//! Frames are built and read by [`wire`], which shares no code with the stack under test.
#![forbid(unsafe_code)]

mod app;
mod check;
mod expect;
mod flow;
mod judge;
mod moving;
mod parse;
mod peer;
mod run;
mod script;
mod trace;
mod variant;
mod wire;
mod world;

pub use judge::{Verdict, judge};
pub use run::run;
pub use script::{ParseError, Script};
pub use variant::{Failure, Family, Moving, Role, Variant};
